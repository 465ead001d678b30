package cli

import (
	"context"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newContainerInspectCmd(a *app) *cobra.Command {
	var format string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) { return inspectContainer(cmd.Context(), s, name, size) })
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Display total file sizes")
	return cmd
}

// inspectedContainer is what Docker's API says of a container (container.InspectResponse), with its
// names and its order. What has no meaning here is empty as it is there.
type inspectedContainer struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           inspectedState
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      inspectedHostConfig
	GraphDriver     inspectedDriver
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []inspectedMount
	Config          inspectedConfig
	NetworkSettings inspectedNetworks
}

type inspectedState struct {
	Status                                       string
	Running, Paused, Restarting, OOMKilled, Dead bool
	Pid, ExitCode                                int
	Error, StartedAt, FinishedAt                 string
}

type inspectedHostConfig struct {
	Binds           []string
	ContainerIDFile string
	NetworkMode     string
	PortBindings    map[string]any
	RestartPolicy   inspectedRestart
	AutoRemove      bool
	VolumesFrom     []string
	CapAdd, CapDrop []string
	CgroupnsMode    string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	GroupAdd        []string
	IpcMode         string
	Links           []string
	OomScoreAdj     int
	PidMode         string
	Privileged      bool
	PublishAllPorts bool
	ReadonlyRootfs  bool
	SecurityOpt     []string
	Tmpfs           map[string]string `json:",omitempty"`
	UTSMode         string
	UsernsMode      string
	ShmSize         int64
	Runtime         string
	CPUShares       uint64 `json:"CpuShares"`
	Memory          int64
	CgroupParent    string
	CPUPeriod       uint64 `json:"CpuPeriod"`
	CPUQuota        int64  `json:"CpuQuota"`
	CpusetCpus      string
	CpusetMems      string
	MemorySwap      int64
	PidsLimit       int64
	Ulimits         []inspectedUlimit
}

type inspectedRestart struct {
	Name              string
	MaximumRetryCount int
}

type inspectedUlimit struct {
	Name       string
	Hard, Soft int64
}

type inspectedDriver struct {
	Data map[string]string
	Name string
}

type inspectedMount struct {
	Type, Source, Destination, Mode string
	RW                              bool
	Propagation                     string
}

type inspectedConfig struct {
	Hostname, Domainname, User              string
	AttachStdin, AttachStdout, AttachStderr bool
	ExposedPorts                            map[string]struct{} `json:",omitempty"`
	Tty, OpenStdin, StdinOnce               bool
	Env, Cmd                                []string
	Image                                   string
	Volumes                                 map[string]struct{}
	WorkingDir                              string
	Entrypoint                              []string
	Labels                                  map[string]string
	StopSignal                              string `json:",omitempty"`
	StopTimeout                             *int   `json:",omitempty"`
}

type inspectedNetworks struct {
	SandboxID, SandboxKey string
	Ports                 map[string]any
	Networks              map[string]inspectedEndpoint
}

type inspectedEndpoint struct {
	NetworkID, EndpointID, Gateway, IPAddress, MacAddress string
	IPPrefixLen                                           int
	IPv6Gateway, GlobalIPv6Address                        string
	GlobalIPv6PrefixLen                                   int
}

// inspectContainer describes a container with Docker's names.
func inspectContainer(ctx context.Context, s *store.Store, name string, size bool) (any, error) {
	c, err := view.FindContainer(ctx, s, name)
	if err != nil {
		return nil, err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return nil, err
	}
	m := &container.Manager{Store: s}
	out := &inspectedContainer{
		ID: c.ID, Created: rfc3339(c.Created), Args: []string{}, State: inspectState(m, c), Image: c.ImageID.String(), Name: "/" + c.Name,
		Driver: "overlay", Platform: "linux", HostConfig: inspectHostConfig(config), Mounts: inspectMounts(config.Mounts),
		Config:          inspectConfig(c, config),
		AppArmorProfile: config.AppArmor,
		GraphDriver: inspectedDriver{Name: "overlay", Data: map[string]string{
			"UpperDir": filepath.Join(s.ContainerDir(c.ID), "fs"), "WorkDir": filepath.Join(s.ContainerDir(c.ID), "work"),
		}},
		NetworkSettings: inspectedNetworks{Ports: map[string]any{}, Networks: map[string]inspectedEndpoint{string(config.Network): {}}},
	}
	if len(config.Args) > 0 {
		out.Path, out.Args = config.Args[0], config.Args[1:]
	}
	if img, err := container.ReadImage(ctx, s, c.ImageID); err == nil { // it may be gone
		out.Platform = img.OS
		out.Config.ExposedPorts, out.Config.Volumes = img.Config.ExposedPorts, img.Config.Volumes
	}
	if size {
		err = out.addSizes(ctx, m, c)
	}
	return out, err
}

func (o *inspectedContainer) addSizes(ctx context.Context, m *container.Manager, c store.Container) error {
	own, err := m.Size(c)
	if err != nil {
		return err
	}
	all, err := m.RootSize(ctx, c)
	o.SizeRw, o.SizeRootFs = &own, &all
	return err
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func inspectState(m *container.Manager, c store.Container) inspectedState {
	s := m.State(c.ID)
	out := inspectedState{
		Status: s.Word(), Running: s.Running, OOMKilled: s.OOM, ExitCode: s.Code(), Error: s.Error,
		StartedAt: rfc3339(s.Started), FinishedAt: rfc3339(s.Finished),
	}
	if s.Running {
		out.Pid, _ = m.Process(c) // 0 while it is being started
	}
	return out
}

func inspectHostConfig(config *container.Config) inspectedHostConfig {
	out := inspectedHostConfig{
		NetworkMode: string(config.Network), PortBindings: map[string]any{}, RestartPolicy: inspectedRestart{Name: "no"},
		AutoRemove: config.AutoRemove, CapAdd: config.CapAdd, CapDrop: config.CapDrop, CgroupnsMode: "private",
		DNS: []string{}, DNSOptions: []string{}, DNSSearch: []string{}, IpcMode: "private", Privileged: config.Privileged,
		GroupAdd: config.Groups, ReadonlyRootfs: config.ReadOnly, ShmSize: config.ShmSize, Runtime: "slipway", CgroupParent: config.CgroupParent,
		Ulimits: []inspectedUlimit{},
		Memory:  config.Resources.Memory, MemorySwap: config.Resources.MemorySwap, CPUShares: config.Resources.CPUShares,
		CPUPeriod: config.Resources.CPUPeriod, CPUQuota: config.Resources.CPUQuota,
		CpusetCpus: config.Resources.CpusetCpus, CpusetMems: config.Resources.CpusetMems, PidsLimit: config.Resources.Pids,
	}
	if config.UserNS {
		out.UsernsMode = "auto"
	}
	if out.ShmSize == 0 {
		out.ShmSize = 64 << 20
	}
	for _, m := range config.Mounts {
		switch {
		case m.Tmpfs != nil:
			if out.Tmpfs == nil {
				out.Tmpfs = map[string]string{}
			}
			out.Tmpfs[m.Dest] = tmpfsText(m)
		case m.ReadOnly:
			out.Binds = append(out.Binds, m.Bind+":"+m.Dest+":ro")
		default:
			out.Binds = append(out.Binds, m.Bind+":"+m.Dest)
		}
	}
	for _, h := range config.ExtraHosts {
		out.ExtraHosts = append(out.ExtraHosts, h.Host+":"+h.IP)
	}
	for _, u := range config.Ulimits {
		out.Ulimits = append(out.Ulimits, inspectedUlimit{u.Name, u.Hard, u.Soft})
	}
	return out
}

// tmpfsText is the options of --tmpfs.
func tmpfsText(m sandbox.Mount) string {
	text := "exec"
	if m.Tmpfs.NoExec {
		text = "noexec"
	}
	if m.Tmpfs.Size > 0 {
		text += ",size=" + strconv.FormatInt(m.Tmpfs.Size, 10)
	}
	if m.Tmpfs.Mode != 0 {
		text += ",mode=" + strconv.FormatUint(uint64(m.Tmpfs.Mode), 8)
	}
	if m.ReadOnly {
		text += ",ro"
	}
	return text
}

func inspectMounts(mounts []sandbox.Mount) []inspectedMount {
	out := []inspectedMount{}
	for _, m := range mounts {
		if m.Bind != "" {
			out = append(out, inspectedMount{Type: "bind", Source: m.Bind, Destination: m.Dest, RW: !m.ReadOnly, Propagation: "rprivate"})
		}
	}
	return out
}

func inspectConfig(c store.Container, config *container.Config) inspectedConfig {
	return inspectedConfig{
		Hostname: config.Hostname, User: config.User, AttachStdin: config.OpenStdin, AttachStdout: true, AttachStderr: true,
		Tty: config.Terminal, OpenStdin: config.OpenStdin, StdinOnce: config.OpenStdin, Env: config.Env, Cmd: config.Cmd(),
		Image: c.Image, WorkingDir: config.Cwd, Entrypoint: config.Entrypoint, Labels: config.Labels,
		StopSignal: config.StopSignal, StopTimeout: config.StopTimeout,
	}
}
