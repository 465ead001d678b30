package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/cli/pkg/kvfile"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// containerFlags are the flags that create and run share, as they were given.
type containerFlags struct {
	name, cwd, user, entrypoint, network, hostname, domainname, shmSize, pull, platform string
	cidFile, stopSignal, cgroupParent, restart, userns                                  string
	env, envFiles, volumes, mounts, addHosts, ulimits, tmpfs                            []string
	labels, labelFiles, capAdd, capDrop, securityOpts, groups, sysctls                  []string
	interactive, terminal, privileged, readOnly, init, quiet                            bool
	remove, detach                                                                      bool
	logDriver                                                                           string
	logOpts                                                                             []string
	stopTimeout                                                                         int
	resourceFlags
}

// add adds the flags to those of a command; what follows the image's name is not read. Names and
// texts are Docker's (docker/cli, cli/command/container/opts.go).
func (o *containerFlags) add(f *pflag.FlagSet) {
	f.SetInterspersed(false)
	f.StringVar(&o.name, "name", "", "Assign a name to the container")
	f.StringArrayVarP(&o.env, "env", "e", nil, "Set environment variables")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "Read in a file of environment variables")
	f.StringVarP(&o.cwd, "workdir", "w", "", "Working directory inside the container")
	f.StringVarP(&o.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringArrayVar(&o.groups, "group-add", nil, "Add additional groups to join")
	f.StringVar(&o.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	f.StringVar(&o.network, "network", "bridge", `Connect a container to a network ("bridge", "host", "none")`)
	f.StringVar(&o.network, "net", "bridge", "")
	f.StringVarP(&o.hostname, "hostname", "h", "", "Container host name")
	f.StringVar(&o.domainname, "domainname", "", "Container NIS domain name")
	f.StringArrayVar(&o.addHosts, "add-host", nil, "Add a custom host-to-IP mapping (host:ip)")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "Set meta data on a container")
	f.StringArrayVar(&o.labelFiles, "label-file", nil, "Read in a line delimited file of labels")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	f.BoolVarP(&o.terminal, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVar(&o.remove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	f.StringVar(&o.pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	f.StringVar(&o.platform, "platform", "", "Set platform if the image is for several platforms")
	f.StringVar(&o.cidFile, "cidfile", "", "Write the container ID to the file")
	f.StringVar(&o.stopSignal, "stop-signal", "", "Signal to stop the container")
	f.IntVar(&o.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	o.filesystemFlags(f)
	o.securityFlags(f)
	o.resourceFlags.add(f)
	f.StringVar(&o.logDriver, "log-driver", "", `Logging driver for the container ("json-file", "none")`)
	f.StringArrayVar(&o.logOpts, "log-opt", nil, "Log driver options (max-size)")
	o.otherFlags(f)
	f.Lookup("net").Hidden = true
}

func (o *containerFlags) filesystemFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "Bind mount a volume: HOST:CONTAINER[:ro]")
	f.StringArrayVar(&o.mounts, "mount", nil, "Attach a filesystem mount to the container (types bind and tmpfs)")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "Mount a tmpfs directory")
	f.BoolVar(&o.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	f.StringVar(&o.shmSize, "shm-size", "", "Size of /dev/shm")
}

func (o *containerFlags) securityFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to this container")
	f.StringArrayVar(&o.capAdd, "cap-add", nil, "Add Linux capabilities")
	f.StringArrayVar(&o.capDrop, "cap-drop", nil, "Drop Linux capabilities")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "Ulimit options")
	f.StringVar(&o.cgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	f.StringVar(&o.userns, "userns", "host", usernsUsage)
	f.StringArrayVar(&o.securityOpts, "security-opt", nil, "Security Options: apparmor=PROFILE, seccomp=FILE|unconfined|builtin, systempaths=unconfined, no-new-privileges")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "Sysctl options of the container's own network and IPC namespace: NAME=VALUE")
}

// otherFlags are those that say what is so anyway, and those that cannot be there.
func (o *containerFlags) otherFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.init, "init", false, "")
	f.StringVar(&o.restart, "restart", "no", "")
	f.StringArray("expose", nil, "")
	for _, name := range []string{"sig-proxy", "no-healthcheck", "disable-content-trust"} {
		f.Bool(name, true, "")
	}
	for _, name := range []string{"detach-keys", "ipc", "pid", "uts", "cgroupns"} {
		f.String(name, "", "")
	}
	for _, a := range absentRun {
		f.StringArrayP(a.name, a.short, nil, a.advice)
		switch a.name {
		case "publish-all", "oom-kill-disable", "use-api-socket":
			f.Lookup(a.name).NoOptDefVal = "true"
		}
		f.Lookup(a.name).Hidden = true
	}
	for _, name := range []string{"init", "restart", "expose", "sig-proxy", "no-healthcheck", "disable-content-trust", "detach-keys",
		"ipc", "pid", "uts", "cgroupns"} {
		f.Lookup(name).Hidden = true
	}
}

// options turns the flags into what a container is created with. args follow the image's name.
func (o *containerFlags) options(cmd *cobra.Command, args []string) (opts container.Options, err error) {
	opts = container.Options{
		Args: args, Cwd: o.cwd, User: o.user, Hostname: o.hostname, Domainname: o.domainname, Terminal: o.terminal, OpenStdin: o.interactive,
		Privileged: o.privileged, Groups: o.groups, ReadOnly: o.readOnly, CgroupParent: o.cgroupParent, StopSignal: o.stopSignal, AutoRemove: o.remove,
	}
	if cmd.Flags().Changed("entrypoint") {
		opts.Entrypoint = []string{o.entrypoint}
	}
	if cmd.Flags().Changed("stop-timeout") {
		opts.StopTimeout = &o.stopTimeout
	}
	if opts.Env, err = o.environment(); err != nil {
		return opts, err
	}
	if opts.Labels, err = o.allLabels(); err != nil {
		return opts, err
	}
	switch o.network {
	case "bridge", "default", "":
		opts.Network = sandbox.NetworkBridge
	case "host":
		opts.Network = sandbox.NetworkHost
	case "none":
		opts.Network = sandbox.NetworkNone
	default:
		return opts, fmt.Errorf("--network %s: only bridge, host and none are there", o.network)
	}
	if opts.Mounts, err = o.allMounts(); err != nil {
		return opts, err
	}
	if err := o.secure(&opts); err != nil {
		return opts, err
	}
	if opts.UserNS, err = userNS(o.userns); err != nil {
		return opts, err
	}
	if opts.UserNS && o.privileged {
		return opts, errors.New("privileged mode is incompatible with user namespaces: --userns=host is the only one that may have it")
	}
	opts.Sysctls = map[string]string{}
	for _, v := range o.sysctls {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return opts, fmt.Errorf("--sysctl %s: want NAME=VALUE", v)
		}
		opts.Sysctls[name] = value
	}
	if err := sandbox.CheckSysctls(opts.Sysctls, opts.Network, opts.UserNS); err != nil {
		return opts, err
	}
	if opts.CapAdd, err = capabilities("CapAdd", o.capAdd); err != nil {
		return opts, err
	}
	if opts.CapDrop, err = capabilities("CapDrop", o.capDrop); err != nil {
		return opts, err
	}
	opts.StdinOnce = o.interactive && !o.detach
	if opts.Log, err = logConfig(o.logDriver, o.logOpts); err != nil {
		return opts, err
	}
	if opts.Resources, err = o.resources(); err != nil {
		return opts, err
	}
	return opts, o.limits(&opts)
}

// secure reads --security-opt, as docker does: of a seccomp profile it is given the file.
func (o *containerFlags) secure(opts *container.Options) error {
	for _, v := range o.securityOpts {
		switch name, value := container.SecurityOption(v); {
		case name == "systempaths" && value == "unconfined":
			opts.MaskedPaths, opts.ReadonlyPaths = &[]string{}, &[]string{}
			continue
		case name == "seccomp" && value != sandbox.SeccompUnconfined && value != "builtin":
			profile, err := os.ReadFile(value)
			if err != nil {
				return fmt.Errorf("opening seccomp profile (%s) failed: %w", value, err)
			}
			v = "seccomp=" + string(profile)
		}
		if err := opts.Secure(v); err != nil {
			return err
		}
	}
	return nil
}

// capabilities checks the names of --cap-add and --cap-drop, with the error of Docker's daemon.
func capabilities(field string, names []string) ([]string, error) {
	var all []string
	for _, name := range names {
		c, err := sandbox.Capability(name)
		if err != nil {
			return nil, fmt.Errorf("invalid %s: %w", field, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// allMounts reads --volume, --mount and --tmpfs.
func (o *containerFlags) allMounts() ([]sandbox.Mount, error) {
	var all []sandbox.Mount
	for _, kind := range []struct {
		values []string
		parse  func(string) (*sandbox.Mount, error)
	}{{o.volumes, parseVolume}, {o.mounts, parseMount}, {o.tmpfs, parseTmpfs}} {
		for _, v := range kind.values {
			m, err := kind.parse(v)
			if err != nil {
				return nil, err
			}
			if m == nil {
				continue
			}
			if slices.ContainsFunc(all, func(other sandbox.Mount) bool { return other.Dest == m.Dest }) {
				return nil, fmt.Errorf("Duplicate mount point: %s", m.Dest) //lint:ignore ST1005 Docker's words
			}
			all = append(all, *m)
		}
	}
	return all, nil
}

// limits reads the flags that have a form of their own.
func (o *containerFlags) limits(opts *container.Options) error {
	for _, v := range o.addHosts {
		h, err := parseHost(v)
		if err != nil {
			return err
		}
		opts.ExtraHosts = append(opts.ExtraHosts, h)
	}
	for _, v := range o.ulimits {
		u, err := units.ParseUlimit(v)
		if err != nil {
			return fmt.Errorf("--ulimit %s: %w", v, err)
		}
		opts.Ulimits = append(opts.Ulimits, sandbox.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if o.shmSize != "" {
		n, err := units.RAMInBytes(o.shmSize)
		if err != nil {
			return fmt.Errorf("--shm-size: %w", err)
		}
		opts.ShmSize = n
	}
	return nil
}

// logConfig reads --log-driver and --log-opt.
func logConfig(driver string, values []string) (container.LogConfig, error) {
	options := map[string]string{}
	for _, v := range values {
		k, text, ok := strings.Cut(v, "=")
		if !ok {
			return container.LogConfig{}, fmt.Errorf("invalid logging opt: %q", v)
		}
		options[k] = text
	}
	return container.NewLogConfig(driver, options)
}

// environment reads --env-file and then --env. A KEY that this process does not have is removed
// from the image's.
func (o *containerFlags) environment() ([]string, error) {
	var env []string
	for _, file := range o.envFiles {
		vars, err := kvfile.Parse(file, os.LookupEnv)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		env = append(env, vars...)
	}
	for _, kv := range o.env {
		key, _, hasValue := strings.Cut(kv, "=")
		if key == "" {
			return nil, fmt.Errorf("--env: invalid environment variable: %s", kv)
		}
		if v, set := os.LookupEnv(key); set && !hasValue {
			kv += "=" + v
		}
		env = append(env, kv)
	}
	return env, nil
}

// allLabels reads --label-file and then --label.
func (o *containerFlags) allLabels() (map[string]string, error) {
	var all []string
	for _, file := range o.labelFiles {
		labels, err := kvfile.Parse(file, nil)
		if err != nil {
			return nil, fmt.Errorf("--label-file: %w", err)
		}
		all = append(all, labels...)
	}
	for _, l := range o.labels {
		key, _, _ := strings.Cut(l, "=")
		key = strings.TrimLeft(key, " \t")
		if key == "" {
			return nil, fmt.Errorf("--label: invalid label '%s': empty name", l)
		}
		if strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("--label: label '%s' contains whitespaces", key)
		}
		all = append(all, l)
	}
	return keyValues(all, nil), nil
}

// parseVolume reads HOST:CONTAINER[:OPTIONS]. An anonymous volume, a path alone, is nil: the
// container's own directory serves as well.
func parseVolume(v string) (*sandbox.Mount, error) {
	parts := strings.Split(v, ":")
	if len(parts) == 1 && path.IsAbs(v) {
		return nil, nil
	}
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return nil, fmt.Errorf("--volume %q: want HOST:CONTAINER[:ro]", v)
	}
	m := &sandbox.Mount{Bind: parts[0], Dest: path.Clean(parts[1])}
	if !path.IsAbs(parts[1]) || m.Dest == "/" {
		return nil, fmt.Errorf("--volume %q: the path in the container must be absolute and not /", v)
	}
	if !strings.ContainsRune(parts[0], '/') && parts[0] != "." && parts[0] != ".." {
		return nil, fmt.Errorf("--volume %q: %s: give a directory, such as ./%s", v, noVolumes, parts[0])
	}
	var err error
	if m.Bind, err = filepath.Abs(parts[0]); err != nil {
		return nil, fmt.Errorf("--volume %q: %w", v, err)
	}
	if len(parts) == 3 {
		for _, opt := range strings.Split(parts[2], ",") {
			switch opt {
			case "ro", "readonly":
				m.ReadOnly = true
			case "rw", "z", "Z", "cached", "delegated", "consistent", "rprivate", "private":
			default:
				return nil, fmt.Errorf("--volume %q: unknown option %q", v, opt)
			}
		}
	}
	return m, nil
}

// makeBindSources creates the host directories that bind mounts name and that do not exist, as
// Docker does.
func makeBindSources(mounts []sandbox.Mount) error {
	for _, m := range mounts {
		if m.Bind == "" {
			continue
		}
		if _, err := os.Stat(m.Bind); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(m.Bind, 0o755); err != nil {
				return fmt.Errorf("creating the source of a volume: %w", err)
			}
		}
	}
	return nil
}

// parseHost reads HOST:IP or HOST=IP. The IP "host-gateway" is this machine.
func parseHost(v string) (sandbox.HostEntry, error) {
	host, ip, ok := strings.Cut(v, "=")
	if !ok {
		host, ip, ok = strings.Cut(v, ":")
	}
	if !ok || host == "" || strings.Contains(host, ":") {
		return sandbox.HostEntry{}, fmt.Errorf("bad format for add-host: %q", v)
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if ip == "host-gateway" {
		ip = sandbox.HostGateway
	}
	if net.ParseIP(ip) == nil {
		return sandbox.HostEntry{}, fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return sandbox.HostEntry{Host: host, IP: ip}, nil
}
