package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultPath is the PATH of a process whose environment has none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Docker's defaults: github.com/moby/moby, daemon/pkg/oci.
var (
	defaultCaps = []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	maskedPaths   = sync.OnceValue(func() []string { return maskedAlso("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle") })
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// ProtectedPaths are the paths that a process which is not privileged finds empty, and those that it cannot write to.
func ProtectedPaths() (masked, readonly []string) {
	return slices.Clone(maskedPaths()), slices.Clone(readonlyPaths)
}

// maxProtected bounds the paths that are protected instead of these.
const maxProtected = 1000

// CheckProtected refuses paths that cannot be protected: others than those of the kernel's filesystems.
func CheckProtected(paths []string) error {
	if len(paths) > maxProtected {
		return fmt.Errorf("more than %d masked or read-only paths", maxProtected)
	}
	for _, p := range paths {
		if filepath.Clean(p) != p || !strings.HasPrefix(p, "/proc/") && !strings.HasPrefix(p, "/sys/") {
			return fmt.Errorf("masked or read-only path %q: want one below /proc or /sys", p)
		}
	}
	return nil
}

// maskedAlso are the paths that are hidden, with those of a pattern. What tells how hot each processor is, and by which
// interrupts it works, tells what others do with it.
func maskedAlso(pattern string) []string {
	also, _ := filepath.Glob(pattern) // which is right
	return append([]string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}, also...)
}

// ociSpec is the whole description of a container for an OCI runtime. The mounts are complete
// and their sources exist.
func ociSpec(rootfs string, spec *Spec, u *user.ExecUser, mounts []specs.Mount) (*specs.Spec, error) {
	process, err := ociProcess(spec, u)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:    "1.0.2", // the oldest with all that is used here but Domainname, for old runtimes
		Hostname:   hostname(spec),
		Domainname: spec.Domainname,
		Root:       &specs.Root{Path: rootfs, Readonly: spec.Root.Upper == ""},
		Mounts:     mounts,
		Process:    process,
		Linux: &specs.Linux{
			Namespaces:  namespaces(),
			CgroupsPath: cgroupsPath(spec),
			Resources:   spec.Resources.oci(spec.Insecure, spec.MaxProcesses),
			Sysctl:      spec.otherSysctls(),
		},
	}
	if s.Linux.Seccomp, err = seccompOf(spec, process.Capabilities.Bounding); err != nil {
		return nil, err
	}
	if spec.Insecure {
		return s, nil
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths(), readonlyPaths
	if spec.MaskedPaths != nil {
		s.Linux.MaskedPaths = *spec.MaskedPaths
	}
	if spec.ReadonlyPaths != nil {
		s.Linux.ReadonlyPaths = *spec.ReadonlyPaths
	}
	return s, nil
}

// ociProcess is the description of the process of a spec, with a user that was looked up.
func ociProcess(spec *Spec, u *user.ExecUser) (*specs.Process, error) {
	caps, err := capabilitySet(spec)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(spec.Ulimits)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:     spec.Terminal,
		User:         ociUser(u),
		Args:         spec.Args,
		Env:          environment(spec, u),
		Cwd:          filepath.Join("/", spec.Cwd),
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		Rlimits:      limits,

		NoNewPrivileges: spec.NoNewPrivileges,
	}
	if spec.Terminal && spec.Size != (WinSize{}) {
		p.ConsoleSize = &specs.Box{Height: uint(spec.Size.Rows), Width: uint(spec.Size.Cols)}
	}
	if spec.Insecure && spec.KeepCaps {
		p.Capabilities.Inheritable, p.Capabilities.Ambient = caps, caps
	}
	p.ApparmorProfile, err = appArmor(spec)
	return p, err
}

// seccompProfile is Docker's, for the default capabilities.
var seccompProfile = sync.OnceValues(func() (*specs.LinuxSeccomp, error) {
	caps, err := capabilities(false)
	if err != nil {
		return nil, err
	}
	return seccompFor(caps)
})

// namespaces are those that a container gets from its runtime. The network's is that of the thread
// that starts the runtime.
func namespaces() []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
	}
	if cgroupNamespaces() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

func cgroupsPath(spec *Spec) string {
	if spec.CgroupPath == "" {
		return ""
	}
	return filepath.Join("/", spec.CgroupPath, spec.ID)
}

func ociUser(u *user.ExecUser) specs.User {
	ou := specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	// The primary group is among the additional ones, as login(1) has it.
	if !slices.Contains(u.Sgids, u.Gid) {
		ou.AdditionalGids = append(ou.AdditionalGids, uint32(u.Gid))
	}
	for _, gid := range u.Sgids {
		ou.AdditionalGids = append(ou.AdditionalGids, uint32(gid))
	}
	return ou
}

// environment completes the spec's with what every process expects.
func environment(spec *Spec, u *user.ExecUser) []string {
	env := slices.Clone(spec.Env)
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	}
	if !has("PATH") {
		env = append(env, defaultPath)
	}
	if !has("HOME") {
		env = append(env, "HOME="+u.Home)
	}
	if spec.Terminal && !has("TERM") {
		env = append(env, "TERM=xterm")
	}
	return env
}

// capabilities are Docker's, or all of ours; only those that this process may give.
func capabilities(all bool) ([]string, error) {
	own, err := ownCapabilities()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range capability.ListKnown() {
		name := capName(c)
		if own.Get(capability.PERMITTED, c) && own.Get(capability.BOUNDING, c) && (all || slices.Contains(defaultCaps, name)) {
			names = append(names, name)
		}
	}
	return names, nil
}

var ownCapabilities = sync.OnceValues(func() (capability.Capabilities, error) {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the own capabilities: %w", err)
	}
	return own, nil
})

// rlimits are lowered to what this process may set: without CAP_SYS_RESOURCE no hard limit can
// be raised, and a build should not fail for that.
func rlimits(ulimits []Ulimit) (limits []specs.POSIXRlimit, err error) {
	own, err := ownCapabilities()
	if err != nil {
		return nil, err
	}
	for _, l := range ulimits {
		name := strings.ToUpper(l.Name)
		resource, ok := rlimitNumbers[name]
		if !ok {
			return nil, fmt.Errorf("unknown ulimit %q", l.Name)
		}
		hard, soft := uint64(l.Hard), uint64(l.Soft) // -1 is RLIM_INFINITY
		if !own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
			var now unix.Rlimit
			if err := unix.Getrlimit(resource, &now); err != nil {
				return nil, fmt.Errorf("reading the own limit %s: %w", l.Name, err)
			}
			hard = min(hard, now.Max)
		}
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Hard: hard, Soft: min(soft, hard)})
	}
	return limits, nil
}

var rlimitNumbers = map[string]int{
	"AS": unix.RLIMIT_AS, "CORE": unix.RLIMIT_CORE, "CPU": unix.RLIMIT_CPU, "DATA": unix.RLIMIT_DATA,
	"FSIZE": unix.RLIMIT_FSIZE, "LOCKS": unix.RLIMIT_LOCKS, "MEMLOCK": unix.RLIMIT_MEMLOCK, "MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"NICE": unix.RLIMIT_NICE, "NOFILE": unix.RLIMIT_NOFILE, "NPROC": unix.RLIMIT_NPROC, "RSS": unix.RLIMIT_RSS,
	"RTPRIO": unix.RLIMIT_RTPRIO, "RTTIME": unix.RLIMIT_RTTIME, "SIGPENDING": unix.RLIMIT_SIGPENDING, "STACK": unix.RLIMIT_STACK,
}

// formatSize is a mount option in bytes.
func formatSize(bytes int64) string { return "size=" + strconv.FormatInt(bytes, 10) }
