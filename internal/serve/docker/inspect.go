package docker

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// inspectContainer answers GET /containers/NAME/json.
func (s *Server) inspectContainer(ctx context.Context, r *request) error {
	ctx, m, c, err := r.container(ctx)
	if err != nil {
		return err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return err
	}
	out := &containertypes.InspectResponse{
		ID: c.ID, Created: c.Created.UTC().Format(time.RFC3339Nano), Args: []string{}, State: containerState(m, c), Image: c.ImageID.String(), Name: "/" + c.Name, Driver: "overlayfs", Platform: "linux",
		AppArmorProfile: config.AppArmor, HostConfig: hostConfig(m, config), Mounts: mountPoints(m, config), Config: s.containerConfig(ctx, m.Store, c, config),
		Storage:         &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: "overlayfs"}}},
		NetworkSettings: &containertypes.NetworkSettings{Ports: network.PortMap{}, Networks: endpoints(config)}, ImageManifestDescriptor: askedFor(config).Manifest,
	}
	if !m.State(c.ID).Started.IsZero() && config.Log.Driver != "none" {
		out.LogPath = filepath.Join(m.Store.ContainerDir(c.ID), "log.json")
	}
	if len(config.Args) > 0 {
		out.Path, out.Args = config.Args[0], append(out.Args, config.Args[1:]...)
	}
	if r.flag("size") {
		own, all, err := (&view.Container{Container: c, Config: config}).Sizes(ctx, m)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &own, &all
	}
	return r.answer(http.StatusOK, r.oldContainer(out))
}

// oldContainer is a container with what depends on the client's version.
func (r *request) oldContainer(c *containertypes.InspectResponse) compat {
	if !r.before("1.52") {
		return compat{document: c}
	}
	c.Storage, c.GraphDriver = nil, &storage.DriverData{Name: c.Driver}
	if r.before("1.48") {
		c.ImageManifestDescriptor = nil
	}
	if r.before("1.45") {
		for name, e := range c.NetworkSettings.Networks {
			if containertypes.NetworkMode(name).IsUserDefined() {
				for _, alias := range []string{view.ShortID(c.ID), c.Config.Hostname} {
					if !slices.Contains(e.Aliases, alias) {
						e.Aliases = append(e.Aliases, alias)
					}
				}
			}
		}
	}
	old := compat{document: c}
	if e := c.NetworkSettings.Networks["bridge"]; e != nil {
		old.more = fields{"NetworkSettings": fields{
			"EndpointID": e.EndpointID, "Gateway": e.Gateway, "GlobalIPv6Address": e.GlobalIPv6Address, "GlobalIPv6PrefixLen": e.GlobalIPv6PrefixLen,
			"IPAddress": e.IPAddress, "IPPrefixLen": e.IPPrefixLen, "IPv6Gateway": e.IPv6Gateway, "MacAddress": e.MacAddress,
		}}
	}
	return old
}

// containerState is what became of a container.
func containerState(m *container.Manager, c store.Container) *containertypes.State {
	s := m.State(c.ID)
	out := &containertypes.State{
		Status: containertypes.ContainerState(s.Word()), Running: s.Running, OOMKilled: s.OOM, ExitCode: s.Code(), Error: s.Error,
		StartedAt: s.Started.UTC().Format(time.RFC3339Nano), FinishedAt: s.Finished.UTC().Format(time.RFC3339Nano),
	}
	if s.Running {
		out.Pid, _ = m.Process(c) // 0 while it is being started
	}
	return out
}

// askedFor is what a client asked for, if one has made the container.
func askedFor(config *container.Config) (a asked) {
	if config.Docker != nil {
		_ = json.Unmarshal(config.Docker, &a) // it was written by this
	}
	return a
}

// hostConfig is what a client asked for, if one has made the container, with what holds.
func hostConfig(m *container.Manager, config *container.Config) *containertypes.HostConfig {
	a := askedFor(config)
	h := a.Host
	if h == nil {
		h = &containertypes.HostConfig{}
		for _, s := range config.Mounts {
			if s.Tmpfs != nil {
				if h.Tmpfs == nil {
					h.Tmpfs = map[string]string{}
				}
				h.Tmpfs[s.Dest] = optionsOf(s.Tmpfs)
			}
			if s.Bind == "" {
				continue
			}
			source := s.Bind
			if name := m.VolumeOf(s.Bind); name != "" {
				source = name
			}
			bind := source + ":" + s.Dest
			if s.ReadOnly {
				bind += ":ro"
			}
			h.Binds = append(h.Binds, bind)
		}
	}
	if config.Joined == nil || h.NetworkMode == "" {
		h.NetworkMode = containertypes.NetworkMode(networkMode(config))
	}
	h.AutoRemove, h.Privileged, h.ReadonlyRootfs = config.AutoRemove, config.Privileged, config.ReadOnly
	h.CapAdd, h.CapDrop, h.GroupAdd, h.ShmSize, h.CgroupParent, h.Runtime = config.CapAdd, config.CapDrop, config.Groups, config.ShmSize, config.CgroupParent, "slipway"
	h.Memory, h.MemorySwap, h.CPUShares, h.CpusetCpus, h.CpusetMems = config.Resources.Memory, config.Resources.MemorySwap, int64(config.Resources.CPUShares), config.Resources.CpusetCpus, config.Resources.CpusetMems
	if h.NanoCPUs == 0 {
		h.CPUPeriod, h.CPUQuota = int64(config.Resources.CPUPeriod), config.Resources.CPUQuota
	}
	if h.ShmSize == 0 {
		h.ShmSize = 64 << 20
	}
	h.IpcMode, h.CgroupnsMode = "private", "private"
	if h.OomKillDisable == nil {
		h.OomKillDisable = new(bool)
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 { // none, in whatever words
		h.PidsLimit = nil
	}
	if h.MaskedPaths, h.ReadonlyPaths = nil, nil; !config.Privileged {
		h.MaskedPaths, h.ReadonlyPaths = sandbox.ProtectedPaths()
		for _, own := range []struct{ paths, to *[]string }{{config.MaskedPaths, &h.MaskedPaths}, {config.ReadonlyPaths, &h.ReadonlyPaths}} {
			if own.paths != nil {
				*own.to = *own.paths
			}
		}
	}
	if h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = containertypes.RestartPolicyDisabled
	}
	h.LogConfig.Type = "json-file"
	if config.Log.Driver != "" {
		h.LogConfig.Type = config.Log.Driver
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.PortBindings == nil {
		h.PortBindings = network.PortMap{}
	}
	return h
}

// networkMode is the first network of a container.
func networkMode(config *container.Config) string {
	if names := config.NetworkNames(); len(names) > 0 {
		return names[0]
	}
	return string(config.Network)
}

// containerConfig is what a container runs, in Docker's words.
func (s *Server) containerConfig(ctx context.Context, st *store.Store, c store.Container, config *container.Config) *containertypes.Config {
	a := askedFor(config)
	out := a.Config
	if out == nil {
		out = &containertypes.Config{AttachStdin: config.OpenStdin, AttachStdout: true, AttachStderr: true}
	}
	out.Hostname, out.User, out.Tty, out.OpenStdin, out.StdinOnce = config.Hostname, config.User, config.Terminal, config.OpenStdin, config.StdinOnce
	out.Env, out.WorkingDir, out.Image, out.StopSignal, out.StopTimeout = slices.Concat(config.Env), config.Cwd, c.Image, config.StopSignal, config.StopTimeout
	if len(out.Entrypoint) < 2 { // of a longer one the container knows the first word
		out.Entrypoint, out.Cmd = config.Entrypoint, config.Cmd()
	}
	out.Labels = map[string]string{}
	maps.Copy(out.Labels, config.Labels)
	if img, err := container.ReadImage(ctx, st, c.ImageID); err == nil { // it may be gone
		for port := range img.Config.ExposedPorts {
			if p, err := network.ParsePort(port); err == nil {
				if out.ExposedPorts == nil {
					out.ExposedPorts = network.PortSet{}
				}
				out.ExposedPorts[p] = struct{}{}
			}
		}
		if out.Volumes == nil && len(img.Config.Volumes) > 0 {
			out.Volumes = img.Config.Volumes
		}
	}
	return out
}

// mountPoints are the mounts of a container.
func mountPoints(m *container.Manager, config *container.Config) []containertypes.MountPoint {
	all := []containertypes.MountPoint{}
	var mounts []mount.Mount
	h := askedFor(config).Host
	if h != nil {
		mounts = h.Mounts
	}
	for _, s := range config.Mounts {
		p := containertypes.MountPoint{Destination: s.Dest, RW: !s.ReadOnly}
		switch {
		case s.Tmpfs != nil:
			if !slices.ContainsFunc(mounts, func(m mount.Mount) bool { return path.Clean(m.Target) == s.Dest }) { // the others are told as Tmpfs
				continue
			}
			p.Type = mount.TypeTmpfs
		case s.Bind == "":
			continue
		default:
			p.Type, p.Source, p.Propagation = mount.TypeBind, s.Bind, mount.PropagationRPrivate
			if name := m.VolumeOf(s.Bind); name != "" {
				p.Type, p.Name, p.Driver, p.Propagation = mount.TypeVolume, name, "local", ""
			}
			if p.Mode = bindMode(h, s); p.Mode == "" && p.Type == mount.TypeVolume {
				p.Mode = "z"
			}
		}
		all = append(all, p)
	}
	return all
}

// bindMode is the mode of a mount, as a client has asked for it if one has: SOURCE:DEST:MODE.
func bindMode(h *containertypes.HostConfig, s sandbox.Mount) string {
	if h == nil {
		if s.ReadOnly {
			return "ro"
		}
		return ""
	}
	for _, b := range h.Binds {
		if parts := strings.Split(b, ":"); len(parts) == 3 && path.Clean(parts[1]) == s.Dest {
			return parts[2]
		}
	}
	return ""
}

// endpoints are those of a container in its networks, with what the client has said of each.
func endpoints(config *container.Config) map[string]*network.EndpointSettings {
	a := askedFor(config)
	all := map[string]*network.EndpointSettings{}
	for _, j := range config.In() {
		e := a.Nets[j.Name]
		if e == nil {
			e = &network.EndpointSettings{}
		}
		e.NetworkID = idOf(j)
		all[j.Name] = e
	}
	return all
}
