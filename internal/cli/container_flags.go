package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// containerFlags are the flags that create and run share, as they were given.
type containerFlags struct {
	name, cwd, user, entrypoint, network, hostname, shmSize, pull, platform string
	env, envFiles, volumes, addHosts, ulimits, labels, tmpfs                []string
	interactive, terminal, privileged                                       bool
	remove                                                                  bool
}

// absentRun are flags of Docker's that cannot be there, with what to do instead.
var absentRun = []struct{ name, short, advice string }{
	{"publish", "p", "containers use the host's network: their ports are reachable as they are"},
	{"publish-all", "P", "containers use the host's network: their ports are reachable as they are"},
	{"detach", "d", "there is no daemon that a container could be left to: run it in the foreground, or in the shell's background with &"},
	{"restart", "", "there is no daemon that would restart a container"},
	{"mount", "", "it is not there yet: use -v, or --tmpfs"},
	{"gpus", "", "it is not there yet"},
	{"device", "", "it is not there yet"},
	{"cap-add", "", "it is not there yet: --privileged gives all capabilities"},
	{"cap-drop", "", "it is not there yet"},
	{"memory", "m", "limits are not there yet"},
	{"cpus", "", "limits are not there yet"},
}

// containerFlagsOf adds the flags to a command; what follows the image's name is not read.
func containerFlagsOf(cmd *cobra.Command) *containerFlags {
	var o containerFlags
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVar(&o.name, "name", "", "Name of the container; one is made up otherwise")
	f.StringArrayVarP(&o.env, "env", "e", nil, "Environment variable, KEY=VALUE, or KEY to pass it on (repeatable)")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "File of environment variables (repeatable)")
	f.StringVarP(&o.cwd, "workdir", "w", "", "Working directory")
	f.StringVarP(&o.user, "user", "u", "", "User, NAME|UID[:GROUP|GID]")
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "Host file or directory to show in the container, HOST:CONTAINER[:ro] (repeatable)")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "Directory in memory (repeatable)")
	f.StringVar(&o.entrypoint, "entrypoint", "", "Program to run instead of the image's ENTRYPOINT")
	f.StringVar(&o.network, "network", "host", `"host" or "none"`)
	f.StringVar(&o.network, "net", "host", "")
	f.Lookup("net").Hidden = true
	f.StringVarP(&o.hostname, "hostname", "h", "", "Host name in the container")
	f.StringArrayVar(&o.addHosts, "add-host", nil, "Line of /etc/hosts, HOST:IP (repeatable)")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "Resource limit, NAME=SOFT[:HARD] (repeatable)")
	f.StringVar(&o.shmSize, "shm-size", "", "Size of /dev/shm, such as 128m")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "Label, KEY=VALUE (repeatable)")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Pass standard input on")
	f.BoolVarP(&o.terminal, "tty", "t", false, "Allocate a terminal")
	f.BoolVar(&o.privileged, "privileged", false, "All capabilities, no seccomp filter")
	f.BoolVar(&o.remove, "rm", false, "Remove the container when it ends")
	f.StringVar(&o.pull, "pull", "missing", `When to ask the registry: "always", "missing", "never"`)
	f.StringVar(&o.platform, "platform", "", "Platform of the image")
	f.Bool("init", false, "")
	f.Lookup("init").Hidden = true
	for _, a := range absentRun {
		f.StringArrayP(a.name, a.short, nil, a.advice)
		f.Lookup(a.name).Hidden = true
		switch a.name {
		case "detach", "publish-all":
			f.Lookup(a.name).NoOptDefVal = "true"
		}
	}
	return &o
}

// checkAbsent refuses flags that are not there.
func checkAbsent(cmd *cobra.Command) error {
	for _, a := range absentRun {
		if f := cmd.Flags().Lookup(a.name); f != nil && f.Changed {
			return fmt.Errorf("--%s: %s", a.name, a.advice)
		}
	}
	return nil
}

// options turns the flags into what a container is created with. args follow the image's name.
func (o *containerFlags) options(cmd *cobra.Command, args []string) (opts container.Options, err error) {
	opts = container.Options{
		Args: args, Cwd: o.cwd, User: o.user, Hostname: o.hostname, Terminal: o.terminal, OpenStdin: o.interactive,
		Privileged: o.privileged, Labels: keyValues(o.labels, nil),
	}
	if cmd.Flags().Changed("entrypoint") {
		opts.Entrypoint = &o.entrypoint
	}
	if opts.Env, err = o.environment(); err != nil {
		return opts, err
	}
	switch o.network {
	case "host", "bridge", "default", "":
		opts.Network = sandbox.NetworkHost
	case "none":
		opts.Network = sandbox.NetworkNone
	default:
		return opts, fmt.Errorf("--network %s: only host and none are there", o.network)
	}
	for _, v := range o.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return opts, err
		}
		if m != nil {
			opts.Mounts = append(opts.Mounts, *m)
		}
	}
	for _, v := range o.tmpfs {
		dest, _, _ := strings.Cut(v, ":")
		opts.Mounts = append(opts.Mounts, sandbox.Mount{Dest: path.Clean(dest), Tmpfs: &sandbox.Tmpfs{}})
	}
	return opts, o.limits(&opts)
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

// environment reads --env-file and then --env. A KEY that this process does not have is removed
// from the image's.
func (o *containerFlags) environment() ([]string, error) {
	var env []string
	add := func(kv string, removing bool) {
		if k, _, ok := strings.Cut(kv, "="); !ok {
			v, set := os.LookupEnv(k)
			if set {
				kv += "=" + v
			} else if !removing {
				return
			}
		}
		env = append(env, kv)
	}
	for _, file := range o.envFiles {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--env-file: %w", err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
			if line != "" && !strings.HasPrefix(line, "#") {
				add(line, false)
			}
		}
	}
	for _, kv := range o.env {
		if strings.HasPrefix(kv, "=") || kv == "" {
			return nil, fmt.Errorf("--env %q: the name of the variable is missing", kv)
		}
		add(kv, true)
	}
	return env, nil
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
		return nil, fmt.Errorf("--volume %q: named volumes are not there yet: give a directory, such as ./%s", v, parts[0])
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

// parseHost reads HOST:IP or HOST=IP. The IP "host-gateway" is this machine, whose network the
// container shares.
func parseHost(v string) (sandbox.HostEntry, error) {
	host, ip, ok := strings.Cut(v, "=")
	if !ok {
		host, ip, ok = strings.Cut(v, ":")
	}
	ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
	if ip == "host-gateway" {
		ip = "127.0.0.1"
	}
	if !ok || host == "" || net.ParseIP(ip) == nil {
		return sandbox.HostEntry{}, fmt.Errorf("--add-host %q: want HOST:IP", v)
	}
	return sandbox.HostEntry{Host: host, IP: ip}, nil
}
