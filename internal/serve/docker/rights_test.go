package docker

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// TestEntitlements: what is more than a container has, or is the host's, is for clients of a server that says so.
func TestEntitlements(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "made")
	inside := filepath.Join(l.store.Root(), "volumes", "v", "_data")
	for what, change := range map[string]func(*client.ContainerCreateOptions){
		"host's network":  func(o *client.ContainerCreateOptions) { o.HostConfig.NetworkMode = "host" },
		"privileged":      func(o *client.ContainerCreateOptions) { o.HostConfig.Privileged = true },
		"ALL":             func(o *client.ContainerCreateOptions) { o.HostConfig.CapAdd = []string{"all"} },
		"CAP_SYS_ADMIN":   func(o *client.ContainerCreateOptions) { o.HostConfig.CapAdd = []string{"sys_admin"} },
		"seccomp profile": func(o *client.ContainerCreateOptions) { o.HostConfig.SecurityOpt = []string{"seccomp=unconfined"} },
		"another seccomp": func(o *client.ContainerCreateOptions) {
			o.HostConfig.SecurityOpt = []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW"}`}
		},
		"masked or read-only": func(o *client.ContainerCreateOptions) { o.HostConfig.MaskedPaths = []string{} },
		"read-only paths":     func(o *client.ContainerCreateOptions) { o.HostConfig.ReadonlyPaths = []string{} },
		"nf_conntrack_max": func(o *client.ContainerCreateOptions) {
			o.HostConfig.Sysctls = map[string]string{"net.netfilter.nf_conntrack_max": "1"}
		},
		"tcp_congestion_control": func(o *client.ContainerCreateOptions) {
			o.HostConfig.Sysctls = map[string]string{"net.ipv4.tcp_congestion_control": "cubic"}
		},
		"profile unconfined":   func(o *client.ContainerCreateOptions) { o.HostConfig.SecurityOpt = []string{"apparmor=unconfined"} },
		dir + " of":            func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"before:/v", dir + ":/d"} },
		"/ of":                 func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"/:/d:ro"} },
		inside + " of":         func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{inside + ":/d"} }, // it is no volume
		"cgroup /system":       func(o *client.ContainerCreateOptions) { o.HostConfig.CgroupParent = "/system" },
		inside + "/l/_data of": func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{inside + "/l/_data:/d"} },
		dir + "/x of": func(o *client.ContainerCreateOptions) {
			o.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir + "/x", Target: "/d", BindOptions: &mount.BindOptions{CreateMountpoint: true}}}
		},
	} {
		o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox"}, HostConfig: hostOf(change)}
		if _, err := l.ContainerCreate(ctx, o); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "needs the entitlement") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("a directory of the host was made")
	}
	volumes, err := l.VolumeList(ctx, client.VolumeListOptions{})
	must(t, err)
	if len(volumes.Items) > 0 {
		t.Errorf("volumes are left: %+v", volumes.Items)
	}

	// With it there is one, into which clients that do not have it come by no other way.
	l.server.opt.Entitlements = []string{"security.insecure"}
	id := l.create("sleep 60", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Privileged, o.HostConfig.Binds = true, []string{dir + ":/d"}
	})
	l.start(id)
	e, err := l.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}, Privileged: true})
	must(t, err)
	l.server.opt.Entitlements = nil
	plain := l.create("sleep 60", nil)
	l.start(plain)
	if _, err := l.ExecCreate(ctx, plain, client.ExecCreateOptions{Cmd: []string{"true"}, Privileged: true}); err == nil || !strings.Contains(err.Error(), "needs the entitlement") {
		t.Errorf("a privileged process: %v", err)
	}
	if _, err := l.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "needs the entitlement") {
		t.Errorf("a process in a privileged container: %v", err)
	}
	for path, method := range map[string]string{
		"/containers/" + id + "/start": http.MethodPost, "/containers/" + id + "/restart": http.MethodPost, "/containers/" + id + "/attach?stream=1": http.MethodPost,
		"/containers/" + id + "/archive?path=/d": http.MethodGet, "/exec/" + e.ID + "/start": http.MethodPost,
	} {
		if _, status := l.get(method, path); status != http.StatusForbidden {
			t.Errorf("%s %s: %d", method, path, status)
		}
	}
}

// hostOf is what a change makes of a container's part that is about the host.
func hostOf(change func(*client.ContainerCreateOptions)) *containertypes.HostConfig {
	o := client.ContainerCreateOptions{HostConfig: &containertypes.HostConfig{}}
	change(&o)
	return o.HostConfig
}

// TestBuildWithHostNetwork: a build gets the host's network as a container does, in both forms.
func TestBuildWithHostNetwork(t *testing.T) {
	l := newLab(t)
	for _, form := range []string{"", "&version=2&session=s"} {
		doc, status := l.get(http.MethodPost, "/build?networkmode=host"+form)
		if status != http.StatusForbidden || !strings.Contains(fmt.Sprint(doc), hostNetwork) {
			t.Errorf("%s: %d, %v", form, status, doc)
		}
	}
}

// TestRunSettings: what the configuration says of containers bounds those of clients.
func TestRunSettings(t *testing.T) {
	s := New(Options{Run: container.Options{
		UserNS: true, CgroupParent: "/ours", ShmSize: 1 << 20, Resources: sandbox.Resources{Pids: 100, Memory: 64 << 20}, Ulimits: []sandbox.Ulimit{{Name: "nofile", Soft: 10, Hard: 10}},
	}})
	pids := func(n int64) *int64 { return &n }
	for _, tc := range []struct {
		host   containertypes.HostConfig
		userns bool
		pids   int64
		memory int64
	}{
		{containertypes.HostConfig{}, true, 100, 64 << 20},
		{containertypes.HostConfig{UsernsMode: "host", Resources: containertypes.Resources{PidsLimit: pids(-1), Memory: 32 << 20}}, true, 100, 32 << 20},
		{containertypes.HostConfig{Privileged: true, Resources: containertypes.Resources{PidsLimit: pids(7)}}, false, 7, 64 << 20},
	} {
		c := &creating{s: s, config: &containertypes.Config{}, host: &tc.host}
		for _, step := range []func() error{c.security, c.limits, c.bounds} {
			must(t, step())
		}
		if o := c.opts; o.UserNS != tc.userns || o.Resources.Pids != tc.pids || o.Resources.Memory != tc.memory || o.CgroupParent != "/ours" || o.ShmSize != 1<<20 || len(o.Ulimits) != 1 {
			t.Errorf("%+v is %+v", tc.host, o)
		}
	}
}
