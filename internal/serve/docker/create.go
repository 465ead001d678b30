package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	desc   ocispec.Descriptor // of its manifest
	opts   container.Options
	// nets are the networks that the client names beside the mode, and what it says of each.
	nets map[string]*network.EndpointSettings

	warnings []string
	volumes  []ownVolume
	told     bool // that they were made
}

// createContainer answers POST /containers/create.
func (s *Server) createContainer(ctx context.Context, r *request) error {
	var body containertypes.CreateRequest
	if err := r.document(&body); err != nil {
		return err
	}
	if r.ContentLength == 0 {
		return invalidf("invalid JSON: EOF")
	}
	if body.Config == nil {
		return invalidf("config cannot be empty in order to create a container")
	}
	c := &creating{s: s, config: body.Config, host: body.HostConfig, warnings: []string{}}
	if c.host == nil {
		c.host = &containertypes.HostConfig{}
	}
	if body.NetworkingConfig != nil {
		c.nets = body.NetworkingConfig.EndpointsConfig
	}
	if r.before("1.44") && len(c.nets) > 1 {
		return invalidf("Container cannot be created with multiple network endpoints: %s", strings.Join(slices.Sorted(maps.Keys(c.nets)), ", "))
	}
	ctx, b, err := r.backend(ctx)
	if err != nil {
		return err
	}
	c.m = s.manager(b)
	if c.img, c.desc, err = imageFor(ctx, b.Store, c.config.Image, r.FormValue("platform")); err != nil {
		return err
	}
	if r.before("1.42") {
		c.host.ConsoleSize = [2]uint{}
	}
	var id string
	err = locked(ctx, c.m.LockVolumes, func() error {
		id, err = c.make(ctx, strings.TrimPrefix(r.FormValue("name"), "/"))
		return err
	})
	if err != nil {
		return err
	}
	return r.answer(http.StatusCreated, containertypes.CreateResponse{ID: id, Warnings: c.warnings})
}

// locked does something with a lock, which is released also after a panic: a server outlives that.
func locked(ctx context.Context, lock func(context.Context) (release func() error, err error), do func() error) (err error) {
	release, err := lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return do()
}

// make makes the container and its volumes, or nothing. The volumes are locked.
func (c *creating) make(ctx context.Context, name string) (id string, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, c.forget(context.WithoutCancel(ctx)))
		}
	}()
	if err := validate(c.config, c.host); err != nil {
		return "", refusal(err)
	}
	var made store.Container
	err = locked(ctx, c.m.LockNetworks, func() error {
		made, err = c.record(ctx, name)
		return err
	})
	if err != nil {
		return "", err
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

// record makes the container. Its networks are locked, too, while they are found.
func (c *creating) record(ctx context.Context, name string) (made store.Container, err error) {
	if err := c.options(ctx); err != nil {
		return made, refusal(err)
	}
	config, err := container.NewConfig(c.img, c.opts)
	if err != nil {
		return made, refusal(err)
	}
	if err := c.s.mayUse(c.m, config); err != nil {
		return made, err
	}
	if c.opts.CgroupParent != c.s.opt.Run.CgroupParent { // its limits are those of whoever has it
		if err := c.s.entitled(insecure, "a container in the cgroup "+c.opts.CgroupParent); err != nil {
			return made, err
		}
	}
	c.tellVolumes(events.ActionCreate)
	c.told = true
	if made, err = c.m.Create(ctx, name, c.img, c.opts); err != nil {
		return made, refusal(err)
	}
	return made, nil
}

// forget removes the volumes that were made for nothing.
func (c *creating) forget(ctx context.Context) (err error) {
	for _, v := range c.volumes {
		if v.made {
			err = errors.Join(err, c.m.ForgetVolume(ctx, v.Name))
		}
	}
	if c.told {
		c.tellVolumes(events.ActionDestroy)
	}
	return err
}

// tellVolumes tells of the volumes that were made for the container.
func (c *creating) tellVolumes(action events.Action) {
	for _, v := range c.volumes {
		if v.made {
			c.s.events.volume(action, v.Name)
		}
	}
}

// refusal is an error of what a client wants, which is its own where nothing else is known of it.
func refusal(err error) error {
	if s := status(err); s != http.StatusInternalServerError {
		return failure{s, err.Error()}
	}
	return failure{http.StatusBadRequest, err.Error()}
}

// imageFor is the image of a container, which has to be here, with the descriptor of its manifest.
func imageFor(ctx context.Context, st *store.Store, name, platform string) (img *container.Image, desc ocispec.Descriptor, err error) {
	if name == "" {
		return nil, desc, invalidf("no image was given")
	}
	if _, err := reference.ParseAnyReference(name); err != nil {
		return nil, desc, invalidf("%v", err)
	}
	found, err := view.UseImage(ctx, st, name)
	if err == nil && platform != "" {
		p, perr := platforms.Parse(platform)
		if perr != nil {
			return nil, desc, invalidf("invalid platform: %v", perr)
		}
		found, err = view.ForPlatform(ctx, st, found, p)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, desc, failure{http.StatusNotFound, "No such image: " + view.Familiar(name)}
	}
	if err != nil {
		return nil, desc, err
	}
	if img, err = container.OpenImage(ctx, st, name, found.Manifest.Digest); err != nil {
		return nil, desc, err
	}
	if desc = found.Manifest; desc.Platform == nil {
		p := img.Config.Platform
		desc.Platform = &p
	}
	return img, desc, nil
}

func (c *creating) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// options turns what the client wants into what a container is made with.
func (c *creating) options(ctx context.Context) (err error) {
	cfg, h := c.config, c.host
	c.opts = container.Options{
		Args: cfg.Cmd, Env: cfg.Env, Cwd: cfg.WorkingDir, User: cfg.User, Hostname: cfg.Hostname, Domainname: cfg.Domainname, Terminal: cfg.Tty, Size: sizeOf(h.ConsoleSize), OpenStdin: cfg.OpenStdin, StdinOnce: cfg.StdinOnce,
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
	for _, step := range []func() error{c.network, c.security, c.limits, c.bounds, c.sysctls, c.hosts, c.refused, func() error { return c.mounts(ctx) }} {
		if err := step(); err != nil {
			return err
		}
	}
	if c.opts.Log, err = container.NewLogConfig(h.LogConfig.Type, h.LogConfig.Config); err != nil {
		return err
	}
	c.opts.Docker, err = json.Marshal(asked{cfg, h, c.nets, &c.desc})
	return err
}

// asked is what a client asked for, which it is told again, with the manifest of the image that it got.
type asked struct {
	Config   *containertypes.Config
	Host     *containertypes.HostConfig
	Nets     map[string]*network.EndpointSettings `json:",omitempty"`
	Manifest *ocispec.Descriptor                  `json:",omitempty"`
}

// network says which one the container has, and in which it is.
func (c *creating) network() error {
	mode := string(c.host.NetworkMode)
	if strings.HasPrefix(mode, "container:") {
		return failure{http.StatusNotImplemented, "slipway does not serve the network of another container"}
	}
	var names []string
	if len(c.nets) == 0 || !slices.Contains([]string{"", "default", "bridge"}, mode) { // beside others the usual one is only what is not said
		names = []string{mode}
	}
	names = append(names, slices.Sorted(maps.Keys(c.nets))...)
	made, err := c.m.Networks()
	if err != nil {
		return err
	}
	nets := map[string]*network.EndpointSettings{}
	var in []container.Joined
	for _, name := range names {
		if name == "" || name == "default" {
			name = "bridge"
		}
		n, err := findNetwork(made, name)
		if err != nil {
			return err
		}
		if e := c.nets[name]; e != nil {
			nets[n.Name] = e
		}
		if slices.Contains(in, joined(n)) {
			continue
		}
		in = append(in, joined(n))
		if !isBuiltin(n) {
			c.warn("%s", apart(n.Name))
		}
	}
	c.nets = nets
	if slices.ContainsFunc(in, func(j container.Joined) bool { return alone(j.Name) }) && len(in) > 1 {
		return fmt.Errorf("conflicting options: container cannot be connected to the network host or none and to others: %s", strings.Join(names, ", "))
	}
	var config container.Config
	setNetworks(made, &config, in)
	c.opts.Network, c.opts.Joined = config.Network, config.Joined
	if c.config.NetworkDisabled {
		c.opts.Network, c.opts.Joined = sandbox.NetworkNone, nil
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
		if name, value := container.SecurityOption(opt); name == "seccomp" && value != "builtin" {
			if err := c.s.entitled(insecure, anotherSeccomp); err != nil { // before it is looked at
				return err
			}
		}
		if err := c.opts.Secure(opt); err != nil {
			return err
		}
	}
	if !c.host.Privileged {
		masked, readonly := sandbox.ProtectedPaths()
		if c.opts.MaskedPaths, err = protected(c.host.MaskedPaths, masked); err == nil {
			c.opts.ReadonlyPaths, err = protected(c.host.ReadonlyPaths, readonly)
		}
		if err != nil {
			return err
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

// protected are paths that a client wants to be protected in the place of ours; nil: they are ours, as it is told of another container.
func protected(paths, ours []string) (*[]string, error) {
	if paths == nil || slices.Equal(slices.Sorted(slices.Values(paths)), slices.Sorted(slices.Values(ours))) {
		return nil, nil
	}
	return &paths, sandbox.CheckProtected(paths)
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
	case h.CPUPeriod < 0 || h.CPUQuota < 0 || h.NanoCPUs < 0:
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

// bounds puts what the configuration says of containers under what the client wants: user namespaces and the number of processes hold whatever that is, the rest where
// it says nothing.
func (c *creating) bounds() error {
	run, r := &c.s.opt.Run, &c.opts.Resources
	c.opts.UserNS = c.opts.UserNS || run.UserNS && !c.host.Privileged
	if most := run.Resources.Pids; most > 0 && (r.Pids <= 0 || r.Pids > most) {
		r.Pids = most
	}
	if r.Memory == 0 {
		r.Memory, r.MemorySwap = run.Resources.Memory, run.Resources.MemorySwap
	}
	if c.opts.ShmSize == 0 {
		c.opts.ShmSize = run.ShmSize
	}
	if c.opts.CgroupParent == "" {
		c.opts.CgroupParent = run.CgroupParent
	}
	for _, u := range run.Ulimits {
		if !slices.ContainsFunc(c.opts.Ulimits, func(own sandbox.Ulimit) bool { return own.Name == u.Name }) {
			c.opts.Ulimits = append(c.opts.Ulimits, u)
		}
	}
	return nil
}

// sysctls are settings of the kernel that are the container's own, by what it shares with others.
func (c *creating) sysctls() error {
	c.opts.Sysctls = c.host.Sysctls
	return sandbox.CheckSysctls(c.opts.Sysctls, c.opts.Network, c.opts.UserNS)
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
		{"Devices", len(h.Devices) > 0}, {"DeviceCgroupRules", len(h.DeviceCgroupRules) > 0}, {"DeviceRequests", len(h.DeviceRequests) > 0},
		{"IpcMode " + string(h.IpcMode), !private(string(h.IpcMode))}, {"PidMode " + string(h.PidMode), !private(string(h.PidMode))}, {"UTSMode " + string(h.UTSMode), !private(string(h.UTSMode))},
		{"CgroupnsMode " + string(h.CgroupnsMode), !private(string(h.CgroupnsMode))}, {"Links", len(h.Links) > 0}, {"StorageOpt", len(h.StorageOpt) > 0},
		{"VolumeDriver " + h.VolumeDriver, h.VolumeDriver != "" && h.VolumeDriver != "local"},
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
