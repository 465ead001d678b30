package docker

import (
	"context"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/plugin"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/slipway-build/slipway/internal/view"
)

// System describes the server and its machine.
type System struct {
	// Version is slipway's, Docker that of the Docker whose words it has, BuildKit that of its BuildKit; without "v".
	Version, Docker, BuildKit string
	// Kernel is its release, Machine the architecture in its words, OS what the system calls itself.
	Kernel, Machine, OS string
	Cgroups             string // their version, "1" or "2"
	Memory              int64  // bytes; 0 is unknown
	Rootless            bool
	Runtime             string
}

// ping answers /_ping.
func (s *Server) ping(_ context.Context, r *request) error {
	h := r.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", string(build.BuilderBuildKit))
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	r.began = true
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := r.w.Write([]byte("OK"))
	return err
}

// version answers /version.
func (s *Server) version(_ context.Context, r *request) error {
	sys := s.opt.System
	return r.answer(http.StatusOK, system.VersionResponse{
		Platform: system.PlatformInfo{Name: "slipway " + sys.Version}, Version: sys.Docker, APIVersion: MaxVersion, MinAPIVersion: MinVersion,
		Os: "linux", Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: sys.Kernel,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: sys.Docker, Details: map[string]string{
				"ApiVersion": MaxVersion, "MinAPIVersion": MinVersion, "Os": "linux", "Arch": runtime.GOARCH, "GoVersion": runtime.Version(), "KernelVersion": sys.Kernel,
				"Experimental": "false", "GitCommit": "", "BuildTime": "",
			}},
			{Name: "slipway", Version: sys.Version}, {Name: "BuildKit", Version: sys.BuildKit},
		},
	})
}

// hub is Docker Hub in the words of old.
const hub = "https://index.docker.io/v1/"

// info answers /info.
func (s *Server) info(ctx context.Context, r *request) error {
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	images, err := b.Store.Images(ctx)
	if err != nil {
		return err
	}
	all, err := b.Store.Containers(ctx)
	if err != nil {
		return err
	}
	w, err := s.opt.Worker(b.Store)
	if err != nil {
		return err
	}
	sys := s.opt.System
	info := system.Info{
		ID: w.ID, Containers: len(all), Images: len(view.Summaries(images)), Driver: "overlayfs", DriverStatus: [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins: system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "none"}}, MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true,
		PidsLimit: true, IPv4Forwarding: true, NFd: -1, NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano), CgroupDriver: "cgroupfs", LoggingDriver: "json-file", CgroupVersion: sys.Cgroups,
		KernelVersion: sys.Kernel, OperatingSystem: sys.OS, OSType: "linux", Architecture: sys.Machine, IndexServerAddress: hub,
		RegistryConfig: &registry.ServiceConfig{InsecureRegistryCIDRs: loopback, Mirrors: []string{}, IndexConfigs: map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}}},
		NCPU:           runtime.NumCPU(), MemTotal: sys.Memory, DockerRootDir: b.Store.Root(), HTTPProxy: proxy("HTTP_PROXY"), HTTPSProxy: proxy("HTTPS_PROXY"), NoProxy: proxy("NO_PROXY"),
		Labels: []string{"slipway.version=" + sys.Version}, ServerVersion: sys.Docker, Runtimes: map[string]system.RuntimeWithStatus{sys.Runtime: {}}, DefaultRuntime: sys.Runtime,
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, SecurityOptions: []string{"name=seccomp,profile=builtin"}, CDISpecDirs: []string{},
	}
	if sys.Rootless {
		info.SecurityOptions = append(info.SecurityOptions, "name=rootless")
	}
	info.ContainersRunning = view.Running(b.Store, all)
	info.ContainersStopped = info.Containers - info.ContainersRunning
	info.Name, _ = os.Hostname()
	return r.answer(http.StatusOK, r.oldInfo(info))
}

// loopback are networks whose registries need no certificates.
var loopback = []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")}

// oldInfo is what is told of the server with what depends on the client's version.
func (r *request) oldInfo(info system.Info) compat {
	more := fields{}
	if r.before("1.50") {
		more["BridgeNfIptables"], more["BridgeNfIp6tables"] = false, false
	}
	if r.before("1.49") {
		for _, program := range []string{"ContainerdCommit", "RuncCommit", "InitCommit"} {
			more[program] = fields{"Expected": ""} // as ID: of these programs there is no commit
		}
	}
	if r.before("1.47") {
		more["RegistryConfig"] = fields{"AllowNondistributableArtifactsCIDRs": nil, "AllowNondistributableArtifactsHostnames": nil}
	}
	return compat{info, more}
}

// proxy is a setting of the environment's, without the password that may stand in it.
func proxy(name string) string {
	value := os.Getenv(name)
	if value == "" {
		value = os.Getenv(strings.ToLower(name))
	}
	if at := strings.LastIndexByte(value, '@'); at >= 0 && name != "NO_PROXY" {
		scheme, _, ok := strings.Cut(value, "://")
		if ok {
			scheme += "://"
		} else {
			scheme = ""
		}
		return scheme + "xxxxx:xxxxx@" + value[at+1:]
	}
	return value
}

// listPlugins answers GET /plugins: there are none.
func (s *Server) listPlugins(_ context.Context, r *request) error {
	if _, err := r.args("capability", "enabled"); err != nil {
		return err
	}
	return r.answer(http.StatusOK, plugin.ListResponse{})
}
