package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// creating is a container that is made.
type creating struct {
	s      *Server
	config *containertypes.Config
	host   *containertypes.HostConfig
	m      *container.Manager
	img    *container.Image
	opts   container.Options

	warnings []string
	volumes  []ownVolume
}

// ownVolume is a volume that a container is to have.
type ownVolume struct {
	container.Volume
	dest         string
	made, noCopy bool // made for it; it gets nothing of the image's
}

// createContainer answers POST /containers/create.
func (s *Server) createContainer(ctx context.Context, r *request) error {
	var body containertypes.CreateRequest
	if err := r.document(&body); err != nil {
		return err
	}
	if body.Config == nil {
		return invalidf("config cannot be empty in order to create a container")
	}
	c := &creating{s: s, config: body.Config, host: body.HostConfig, warnings: []string{}}
	if c.host == nil {
		c.host = &containertypes.HostConfig{}
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	c.m = s.manager(b)
	if c.img, err = imageFor(ctx, b.Store, c.config.Image, r.FormValue("platform")); err != nil {
		return err
	}
	release, err := c.m.LockVolumes(ctx)
	if err != nil {
		return err
	}
	id, err := c.make(ctx, strings.TrimPrefix(r.FormValue("name"), "/"))
	if err = errors.Join(err, release()); err != nil {
		return err
	}
	return r.answer(http.StatusCreated, containertypes.CreateResponse{ID: id, Warnings: c.warnings})
}

// make makes the container and its volumes, or nothing. The volumes are locked.
func (c *creating) make(ctx context.Context, name string) (id string, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.forget(context.WithoutCancel(ctx)))
		}
	}()
	if err := c.options(ctx); err != nil {
		return "", refusal(err)
	}
	config, err := container.NewConfig(c.img, c.opts)
	if err != nil {
		return "", refusal(err)
	}
	if err := c.s.mayUse(c.m, config); err != nil {
		return "", err
	}
	if c.opts.CgroupParent != "" { // its limits are those of whoever has it
		if err := c.s.entitled(insecure, "a container in the cgroup "+c.opts.CgroupParent); err != nil {
			return "", err
		}
	}
	made, err := c.m.Create(ctx, name, c.img, c.opts)
	if err != nil {
		return "", refusal(err)
	}
	for _, v := range c.volumes {
		if !v.noCopy {
			if err := c.m.FillVolume(ctx, made, v.Volume, v.dest); err != nil {
				return "", errors.Join(err, c.m.Discard(context.WithoutCancel(ctx), made))
			}
		}
	}
	return made.ID, nil
}

// forget removes the volumes that were made for nothing.
func (c *creating) forget(ctx context.Context) (err error) {
	for _, v := range c.volumes {
		if v.made {
			err = errors.Join(err, c.m.ForgetVolume(ctx, v.Name, false))
		}
	}
	return err
}

// refusal is an error of what a client wants, which is its own where nothing else is known of it.
func refusal(err error) error {
	if s := status(err); s != http.StatusInternalServerError {
		return failure{s, err.Error()}
	}
	return failure{http.StatusBadRequest, err.Error()}
}

// imageFor is the image of a container, which has to be here.
func imageFor(ctx context.Context, st *store.Store, name, platform string) (*container.Image, error) {
	if name == "" {
		return nil, invalidf("no image was given")
	}
	img, err := view.UseImage(ctx, st, name)
	if err == nil && platform != "" {
		p, perr := platforms.Parse(platform)
		if perr != nil {
			return nil, invalidf("invalid platform: %v", perr)
		}
		img, err = view.ForPlatform(ctx, st, img, p)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, failure{http.StatusNotFound, "No such image: " + view.Familiar(name)}
	}
	if err != nil {
		return nil, err
	}
	return container.OpenImage(ctx, st, name, img.Manifest.Digest)
}

func (c *creating) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// options turns what the client wants into what a container is made with.
func (c *creating) options(ctx context.Context) (err error) {
	cfg, h := c.config, c.host
	c.opts = container.Options{
		Args: cfg.Cmd, Env: cfg.Env, Cwd: cfg.WorkingDir, User: cfg.User, Hostname: cfg.Hostname, Terminal: cfg.Tty, OpenStdin: cfg.OpenStdin, StdinOnce: cfg.StdinOnce,
		Labels: cfg.Labels, StopSignal: cfg.StopSignal, StopTimeout: cfg.StopTimeout, Privileged: h.Privileged, Groups: h.GroupAdd, ReadOnly: h.ReadonlyRootfs, CgroupParent: h.CgroupParent,
		AutoRemove: h.AutoRemove, ShmSize: h.ShmSize,
	}
	if c.opts.Entrypoint = cfg.Entrypoint; cfg.Entrypoint != nil && len(cfg.Entrypoint) == 0 { // none, but what follows the image's stays
		c.opts.Entrypoint = []string{""}
		if len(cfg.Cmd) == 0 {
			c.opts.Args = c.img.Config.Config.Cmd
		}
	}
	if cfg.StopSignal != "" {
		if _, err := container.ParseSignal(cfg.StopSignal); err != nil {
			return err
		}
	}
	for _, step := range []func() error{c.network, c.security, c.limits, c.hosts, c.refused, func() error { return c.mounts(ctx) }} {
		if err := step(); err != nil {
			return err
		}
	}
	if c.opts.Log, err = container.NewLogConfig(h.LogConfig.Type, h.LogConfig.Config); err != nil {
		return err
	}
	c.opts.Docker, err = json.Marshal(asked{cfg, h})
	return err
}

// asked is what a client asked for, which it is told again.
type asked struct {
	Config *containertypes.Config
	Host   *containertypes.HostConfig
}

// network says which one the container has.
func (c *creating) network() error {
	switch mode := string(c.host.NetworkMode); mode {
	case "", "default", "bridge":
		c.opts.Network = sandbox.NetworkBridge
	case "host":
		c.opts.Network = sandbox.NetworkHost
	case "none":
		c.opts.Network = sandbox.NetworkNone
	default:
		return failure{http.StatusNotFound, fmt.Sprintf("network %s not found: there are bridge, host and none", mode)}
	}
	if c.config.NetworkDisabled {
		c.opts.Network = sandbox.NetworkNone
	}
	if (len(c.host.PortBindings) > 0 || c.host.PublishAllPorts) && c.opts.Network == sandbox.NetworkBridge {
		c.warn("Ports are not published: the container has a network of its own with a way out and none in; with --network host its ports are reachable as they are.")
	}
	return nil
}

// security says what the container may do.
func (c *creating) security() (err error) {
	for _, caps := range []struct {
		field string
		names []string
		to    *[]string
	}{{"CapAdd", c.host.CapAdd, &c.opts.CapAdd}, {"CapDrop", c.host.CapDrop, &c.opts.CapDrop}} {
		for _, name := range caps.names {
			known, err := sandbox.Capability(name)
			if err != nil {
				return fmt.Errorf("invalid %s: %w", caps.field, err)
			}
			*caps.to = append(*caps.to, known)
		}
	}
	for _, opt := range c.host.SecurityOpt {
		switch name, value, _ := strings.Cut(strings.Replace(opt, ":", "=", 1), "="); {
		case name == "apparmor":
			c.opts.AppArmor = value
		case name == "label" && value == "disable", name == "no-new-privileges" && value == "false", name == "seccomp" && value == "builtin":
		default:
			return fmt.Errorf("invalid --security-opt: %q is not served: privileged drops all restrictions", opt)
		}
	}
	switch c.host.UsernsMode {
	case "", "host":
	case "auto":
		if c.host.Privileged {
			return errors.New("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
		}
		c.opts.UserNS = true
	default:
		return fmt.Errorf("invalid userns mode: %q", c.host.UsernsMode)
	}
	return nil
}

// limits are those of resources.
func (c *creating) limits() error {
	h := &c.host.Resources
	r := &c.opts.Resources
	const least = 6 << 20
	switch {
	case h.Memory != 0 && h.Memory < least:
		return errors.New("Minimum memory limit allowed is 6MB") //lint:ignore ST1005 Docker's words
	case h.MemorySwap > 0 && h.Memory == 0:
		return errors.New("You should always set the Memory limit when using Memoryswap limit, see usage") //lint:ignore ST1005 Docker's words
	case h.MemorySwap > 0 && h.MemorySwap < h.Memory:
		return errors.New("Minimum memoryswap limit should be larger than memory limit, see usage") //lint:ignore ST1005 Docker's words
	case h.CPUShares < 0 || h.CPUPeriod < 0 || h.CPUQuota < 0 || h.NanoCPUs < 0:
		return errors.New("a limit of processors is negative")
	case h.NanoCPUs > 0 && (h.CPUPeriod > 0 || h.CPUQuota > 0):
		return errors.New("conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
	}
	r.Memory, r.MemorySwap, r.CPUShares, r.CPUPeriod, r.CPUQuota = h.Memory, h.MemorySwap, uint64(h.CPUShares), uint64(h.CPUPeriod), h.CPUQuota
	r.CpusetCpus, r.CpusetMems = h.CpusetCpus, h.CpusetMems
	if h.NanoCPUs > 0 {
		r.CPUPeriod, r.CPUQuota = 100_000, h.NanoCPUs/10_000
	}
	if h.PidsLimit != nil && *h.PidsLimit != 0 {
		r.Pids = max(*h.PidsLimit, -1)
	}
	for _, u := range h.Ulimits {
		if u != nil {
			c.opts.Ulimits = append(c.opts.Ulimits, sandbox.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
		}
	}
	return nil
}

// hosts are lines of /etc/hosts: HOST:IP.
func (c *creating) hosts() error {
	for _, text := range c.host.ExtraHosts {
		name, ip, ok := strings.Cut(text, ":")
		if ip == "host-gateway" {
			ip = sandbox.HostGateway
		}
		ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
		if !ok || name == "" || net.ParseIP(ip) == nil {
			return fmt.Errorf("bad format for add-host: %q", text)
		}
		c.opts.ExtraHosts = append(c.opts.ExtraHosts, sandbox.HostEntry{Host: name, IP: ip})
	}
	return nil
}

// refused are options that would change what a container may do or reach, and are not served: to leave them out would be to lie. What has only less effect is a warning.
func (c *creating) refused() error {
	h := c.host
	private := func(mode string) bool { return mode == "" || mode == "private" || mode == "shareable" }
	for _, no := range []struct {
		name  string
		given bool
	}{
		{"Devices", len(h.Devices) > 0}, {"DeviceCgroupRules", len(h.DeviceCgroupRules) > 0}, {"DeviceRequests", len(h.DeviceRequests) > 0}, {"Sysctls", len(h.Sysctls) > 0},
		{"IpcMode " + string(h.IpcMode), !private(string(h.IpcMode))}, {"PidMode " + string(h.PidMode), !private(string(h.PidMode))}, {"UTSMode " + string(h.UTSMode), !private(string(h.UTSMode))},
		{"CgroupnsMode " + string(h.CgroupnsMode), !private(string(h.CgroupnsMode))}, {"Links", len(h.Links) > 0}, {"VolumesFrom", len(h.VolumesFrom) > 0}, {"StorageOpt", len(h.StorageOpt) > 0},
		{"VolumeDriver " + h.VolumeDriver, h.VolumeDriver != "" && h.VolumeDriver != "local"}, {"MaskedPaths", len(h.MaskedPaths) > 0 && !h.Privileged}, {"ReadonlyPaths", len(h.ReadonlyPaths) > 0 && !h.Privileged},
		{"Runtime " + h.Runtime, h.Runtime != "" && h.Runtime != "runc" && h.Runtime != "slipway"},
	} {
		if no.given {
			return failure{http.StatusNotImplemented, "slipway does not serve " + no.name + " of containers"}
		}
	}
	for _, less := range []struct {
		given bool
		text  string
	}{
		{h.RestartPolicy.Name != "" && h.RestartPolicy.Name != "no", "The restart policy is not carried out: nobody restarts the container."},
		{h.Init != nil && *h.Init, "There is no init program: the command is the container's first process."},
		{len(h.DNS)+len(h.DNSOptions)+len(h.DNSSearch) > 0, "The host's name servers are used."},
		{c.config.Healthcheck != nil && len(c.config.Healthcheck.Test) > 0 && c.config.Healthcheck.Test[0] != "NONE", "The container's health is not watched."},
		{h.MemoryReservation != 0 || h.MemorySwappiness != nil && *h.MemorySwappiness != -1 || h.OomKillDisable != nil && *h.OomKillDisable || h.OomScoreAdj != 0 || h.CPURealtimePeriod != 0 || h.CPURealtimeRuntime != 0 || h.BlkioWeight != 0,
			"Limits of swapping, of disks and of real-time processes have no effect."},
	} {
		if less.given {
			c.warn("%s", less.text)
		}
	}
	return nil
}

// mounts are those of Binds, Mounts, Tmpfs and Volumes, and of the image's volumes.
func (c *creating) mounts(ctx context.Context) error {
	for _, text := range c.host.Binds {
		if err := c.bind(ctx, text); err != nil {
			return err
		}
	}
	for _, m := range c.host.Mounts {
		if err := c.mount(ctx, m); err != nil {
			return err
		}
	}
	for dest, options := range c.host.Tmpfs {
		t := &sandbox.Tmpfs{NoExec: true}
		if err := tmpfsOptions(t, options); err != nil {
			return err
		}
		if err := c.add(sandbox.Mount{Dest: dest, Tmpfs: t}); err != nil {
			return err
		}
	}
	for _, volumes := range []map[string]struct{}{c.config.Volumes, c.img.Config.Config.Volumes} {
		for dest := range volumes {
			if c.has(dest) {
				continue
			}
			if err := c.volume(ctx, "", dest, false, false, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// has reports whether there is a mount at a path.
func (c *creating) has(dest string) bool {
	return slices.ContainsFunc(c.opts.Mounts, func(m sandbox.Mount) bool { return m.Dest == path.Clean(dest) })
}

// add adds a mount.
func (c *creating) add(m sandbox.Mount) error {
	if !path.IsAbs(m.Dest) || path.Clean(m.Dest) == "/" {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute, and not /", m.Dest)
	}
	m.Dest = path.Clean(m.Dest)
	if c.has(m.Dest) {
		return fmt.Errorf("Duplicate mount point: %s", m.Dest) //lint:ignore ST1005 Docker's words
	}
	c.opts.Mounts = append(c.opts.Mounts, m)
	return nil
}

// bind reads SOURCE:DEST[:OPTIONS], where the source is an absolute path or a volume's name.
func (c *creating) bind(ctx context.Context, text string) error {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return fmt.Errorf("invalid volume specification: '%s'", text)
	}
	readOnly, noCopy := false, false
	if len(parts) == 3 {
		for _, opt := range strings.Split(parts[2], ",") {
			switch opt {
			case "ro":
				readOnly = true
			case "nocopy":
				noCopy = true
			case "", "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private":
			case "shared", "rshared", "slave", "rslave":
				c.warn("Mounts are private: %s of %s has no effect.", opt, parts[1])
			default:
				return fmt.Errorf("invalid mode: %s", opt)
			}
		}
	}
	if !path.IsAbs(parts[0]) {
		return c.volume(ctx, parts[0], parts[1], readOnly, noCopy, nil)
	}
	if err := c.s.mayMount(c.m, sandbox.Mount{Bind: path.Clean(parts[0])}); err != nil { // before anything is looked at there
		return err
	}
	if _, err := os.Stat(parts[0]); errors.Is(err, os.ErrNotExist) { // as dockerd does
		if err := os.MkdirAll(parts[0], 0o755); err != nil {
			return fmt.Errorf("error while creating mount source path '%s': %w", parts[0], err)
		}
	}
	return c.add(sandbox.Mount{Bind: path.Clean(parts[0]), Dest: parts[1], ReadOnly: readOnly})
}

// mount reads one of the mounts that have a field for everything.
func (c *creating) mount(ctx context.Context, m mount.Mount) error {
	switch m.Type {
	case mount.TypeBind:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		if err := c.s.mayMount(c.m, sandbox.Mount{Bind: path.Clean(m.Source)}); err != nil {
			return err
		}
		if _, err := os.Stat(m.Source); err != nil {
			if m.BindOptions == nil || !m.BindOptions.CreateMountpoint {
				return fmt.Errorf("invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
			}
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return err
			}
		}
		return c.add(sandbox.Mount{Bind: path.Clean(m.Source), Dest: m.Target, ReadOnly: m.ReadOnly})
	case mount.TypeTmpfs:
		t := &sandbox.Tmpfs{NoExec: true}
		if o := m.TmpfsOptions; o != nil {
			t.Size, t.Mode = o.SizeBytes, uint32(o.Mode.Perm())
		}
		return c.add(sandbox.Mount{Tmpfs: t, Dest: m.Target, ReadOnly: m.ReadOnly})
	case mount.TypeVolume, "":
		noCopy, labels := false, map[string]string(nil)
		if o := m.VolumeOptions; o != nil {
			if o.Subpath != "" || o.DriverConfig != nil && (o.DriverConfig.Name != "" && o.DriverConfig.Name != "local" || len(o.DriverConfig.Options) > 0) {
				return failure{http.StatusNotImplemented, "slipway does not serve drivers and parts of volumes"}
			}
			noCopy, labels = o.NoCopy, o.Labels
		}
		return c.volume(ctx, m.Source, m.Target, m.ReadOnly, noCopy, labels)
	}
	return failure{http.StatusNotImplemented, fmt.Sprintf("slipway does not serve mounts of type %q", m.Type)}
}

// volume adds a volume, which is made if there is none of that name; "" is an anonymous one.
func (c *creating) volume(ctx context.Context, name, dest string, readOnly, noCopy bool, labels map[string]string) error {
	if c.has(dest) {
		return fmt.Errorf("Duplicate mount point: %s", dest) //lint:ignore ST1005 Docker's words
	}
	v, made, err := c.m.MakeVolume(ctx, name, labels, name == "")
	if err != nil {
		return err
	}
	c.volumes = append(c.volumes, ownVolume{v, dest, made, noCopy})
	return c.add(sandbox.Mount{Bind: v.Dir, Dest: dest, ReadOnly: readOnly})
}

// tmpfsOptions reads the options of mount(8) that a tmpfs may have.
func tmpfsOptions(t *sandbox.Tmpfs, options string) (err error) {
	for _, opt := range strings.Split(options, ",") {
		switch key, value, _ := strings.Cut(opt, "="); key {
		case "", "rw", "nosuid", "nodev", "relatime", "noatime":
		case "exec":
			t.NoExec = false
		case "noexec":
			t.NoExec = true
		case "size":
			t.Size, err = units.RAMInBytes(value)
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 32)
			t.Mode = uint32(mode) & 0o7777
		default:
			err = errors.New("it is not there: use size, mode, exec, noexec")
		}
		if err != nil {
			return fmt.Errorf("invalid tmpfs option %q: %w", opt, err)
		}
	}
	return nil
}
