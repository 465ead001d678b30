// Package sandbox runs one process in a snapshot.
//
// # Structure
//
// A [Spec] says what to run on which layer directories. It becomes an OCI runtime-spec bundle,
// and is executed as such: by this program itself (linked.go; inside.go is what happens in the container), or by
// any OCI runtime binary (external.go).
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/network"
)

// Network is the network a process sees.
type Network string

const (
	NetworkBridge Network = "bridge" // one of its own with a way out: Docker's default
	NetworkHost   Network = "host"   // the host's own
	NetworkNone   Network = "none"   // loopback only
)

// Root is a root filesystem, or the source of a bind mount, made of layer directories.
type Root struct {
	// Lower are overlay-native layer directories, base first. They are never written to.
	Lower []string
	// Upper receives the changes, in overlay-native form. It exists, is empty or holds earlier
	// changes, and is on the same filesystem as Work. Empty: the root is mounted read-only and
	// writes fail with EROFS.
	Upper string
	// Work is an empty scratch directory of overlayfs beside Upper; the caller removes it.
	Work string
	// Final: Upper cannot change any more once Run has returned nil. It fails when something outside
	// of the container has got hold of the filesystem and keeps it.
	Final bool
}

// Mount is one mount besides the root and the standard ones (/proc, /dev, /sys, ...).
type Mount struct {
	Dest string // absolute path in the container; created if missing
	// Above is whose the directories are that are made for it, as those above Dest that are missing; nil: root's.
	Above    *Owner `json:",omitempty"`
	ReadOnly bool
	// Exactly one of the following.
	Bind   string // a host file or directory
	Root   *Root  // an overlay of layer directories, of which Selector is shown at Dest
	Tmpfs  *Tmpfs
	File   *File   `json:"-"` // a file that is in memory only
	Socket *Socket `json:"-"` // a Unix socket on which this process answers
	// Selector is the path below Root that is shown; "" or "/" is all of it. It is resolved
	// inside the root, never outside.
	Selector string
	// Mapped: a process with a user namespace sees the owners that Bind has on the disk, and makes files
	// as them. Otherwise these are nobody's for it.
	Mapped bool `json:",omitempty"`
	// Anonymous is the name of the volume that Bind is, where the container got it without saying a name. It says nothing to a runner.
	Anonymous string `json:",omitempty"`
}

// Owner is a numeric owner of files, as the container has it.
type Owner struct{ UID, GID int }

// Tmpfs is an empty filesystem in memory.
type Tmpfs struct {
	Size   int64  // bytes; 0 is the kernel's default
	Mode   uint32 // of the root directory; 0 is 1777
	NoExec bool   // no program in it can be run
}

// File is a file with something that is not to be kept: it is in memory that is not swapped out
// where the kernel (Linux 6.4) can do that, always read-only, and gone with the process.
type File struct {
	Data     []byte
	Mode     uint32 // permission bits
	UID, GID int
}

// Socket is a listening Unix socket, which is gone with the process.
type Socket struct {
	// Serve is given the listener before the process starts and returns at once. The listener is
	// closed when the process has ended.
	Serve    func(net.Listener) error
	Mode     uint32 // permission bits
	UID, GID int
}

// HostGateway is the IP of a [HostEntry] that stands for the host, whatever the network.
var HostGateway = network.Gateway.String()

// HostEntry is a line added to /etc/hosts.
type HostEntry struct{ Host, IP string }

// Ulimit is a resource limit by its name in ulimit(1) style: "nofile", "nproc", ...
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// Spec is one process to run.
type Spec struct {
	ID       string // unique on this host, [a-z0-9-]
	Root     Root
	Mounts   []Mount
	Args     []string // Args[0] is looked up in the PATH of Env
	Env      []string // KEY=VALUE; HOME, and PATH when missing, are supplied
	Cwd      string   // absolute; created if missing
	User     string   // "", name, uid, name:group, uid:gid, resolved in the root's /etc/passwd and /etc/group
	Groups   []string // additional ones, names or numbers
	Hostname string
	// Domainname is that of NIS, which is a part of the host's whole name, too; "" is none.
	Domainname string
	// Container: it is a container, not a step of a build. /etc/hostname, which is the image's own file in a build, is the sandbox's, too; what is generated
	// can be written to where the root can; /etc/hosts is the host's on the host's network; and an insecure one has all devices of the host.
	Container  bool
	Network    Network
	ExtraHosts []HostEntry
	Ulimits    []Ulimit
	ShmSize    int64 // bytes of /dev/shm; 0 is 64 MiB
	// Insecure is all capabilities, no seccomp, no masked or read-only paths, more devices, of which
	// all may be opened. With KeepCaps, a user that is not root has the capabilities too.
	Insecure, KeepCaps bool
	// Seccomp is a seccomp profile in Docker's form, also of what is insecure, or [SeccompUnconfined]; "" is Docker's own, and none with Insecure. MaskedPaths and ReadonlyPaths, unless nil, are what is hidden of /proc and /sys, and what cannot be written
	// to there, in the place of [ProtectedPaths].
	Seccomp                    string
	MaskedPaths, ReadonlyPaths *[]string
	// Sysctls are settings of the kernel by their names, of namespaces that the process does not share.
	Sysctls map[string]string
	// NoNewPrivileges: no program that it executes has more rights than it has, as one that is set-user-ID.
	NoNewPrivileges bool
	// UserNS gives the process a user namespace: its users, root too, are nobody on the host.
	UserNS bool
	// AppArmor is a profile that the kernel knows, AppArmorDefault or AppArmorUnconfined; "" is AppArmorDefault if that
	// can be loaded, and none with Insecure.
	AppArmor string
	// CapAdd and CapDrop change the capabilities, CAP_NAME or [AllCapabilities]; Insecure has all
	// anyway.
	CapAdd, CapDrop []string
	Terminal        bool    // allocate a pseudo-terminal and join it to Stdin/Stdout
	Size            WinSize // of the terminal, to begin with; zero is none
	CgroupPath      string  // parent cgroup; "" is the default
	Resources       Resources
	// MaxProcesses bounds the processes and threads of a container for which Resources sets no limit of them;
	// 0 does not. Unlike those it costs nothing, and where cgroups cannot be made it is left out.
	MaxProcesses int64
	// Waits: the process waits for others that the same build runs, so that it is not to be kept back until some of them have
	// ended. The sandbox does not look at it, only who decides how many processes run at the same time.
	Waits bool

	// sharesNetwork: the network is the host's though another one was asked for.
	sharesNetwork bool
}

// Resources limit all processes of a container together. A zero field is no limit. A process with
// limits, or with a parent cgroup, needs cgroups that this process may write to.
type Resources struct {
	Memory     int64  // bytes
	MemorySwap int64  // bytes of memory and swap together; -1 is no limit of them
	CPUShares  uint64 // weight beside other cgroups, 1024 is the kernel's default
	CPUPeriod  uint64 // microseconds in which CPUQuota is given; 0 is the kernel's 100 ms
	CPUQuota   int64  // microseconds of all processors together
	CpusetCpus string // processors, "0-2,4"
	CpusetMems string // memory nodes, "0-2,4"
	Pids       int64  // number of processes and threads; -1 is no limit
}

// IO is where the process's streams go. Nil is /dev/null.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize delivers terminal sizes when Spec.Terminal is set; may be nil.
	Resize <-chan WinSize
	// Notice is told what the user should know of how the process is run, in one line, before it
	// runs; may be nil.
	Notice func(string)
	// Signals are delivered to the process; may be nil.
	Signals <-chan int
	// Started is called when the program has been executed, and returns at once; may be nil.
	Started func()
	// Used is told what the process and all that came of it have used, when they have ended; may be nil.
	Used func(Usage)
	// Mounted is told where the calling thread sees the root filesystem, an overlay, and those of mounts of layers, which are overlays then, too, when they are
	// ready and nothing of the process runs yet. What it returns is called when all processes have ended, before the filesystems are unmounted. May be nil; where
	// there is no such overlay it is not called.
	Mounted func(root string, mounts []string) (ended func())
	// Wanted reports whether somebody wants what a process has changed that has ended like this: where it is not in Upper meanwhile, it does
	// not come there otherwise. nil: it is wanted.
	Wanted func(*ExitError) bool
}

// wants reports whether what a process has changed is wanted, by how it ended.
func (s IO) wants(end error) bool {
	var exit *ExitError
	return end == nil || errors.As(end, &exit) && (s.Wanted == nil || s.Wanted(exit))
}

// Usage is what processes have used of the machine.
type Usage struct {
	PID    int           `json:"pid"`    // that the first process had
	User   time.Duration `json:"user"`   // of processors, in programs
	System time.Duration `json:"system"` // of processors, in the kernel
	// Memory is how many bytes the largest process had in memory at its peak. It is 0 where that is no more than what this program has had:
	// the first process begins as a part of it, which counts.
	Memory int64 `json:"memory,omitempty"`
	// Bytes that came from and went to disks. What the kernel had in memory is not among them.
	Read    int64 `json:"read,omitempty"`
	Written int64 `json:"written,omitempty"`
}

// usageOf is a usage as wait4(2) tells it.
func usageOf(pid int, r *unix.Rusage) Usage {
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err == nil && r.Maxrss <= own.Maxrss {
		r.Maxrss = 0
	}
	return Usage{
		PID: pid, User: time.Duration(r.Utime.Nano()), System: time.Duration(r.Stime.Nano()),
		Memory: r.Maxrss << 10, Read: r.Inblock << 9, Written: r.Oublock << 9,
	}
}

// used tells of a usage whoever wants to know.
func (s *IO) used(pid int, r *unix.Rusage) {
	if s.Used != nil {
		s.Used(usageOf(pid, r))
	}
}

// WinSize is a terminal's size in characters.
type WinSize struct{ Rows, Cols uint16 }

// Runner runs processes. It is safe for concurrent use.
//
// Run returns nil when the process exits with 0, an *ExitError when it ran and ended in another
// way, and any other error when it could not be run. When ctx ends, every process of the
// container is killed and Run returns ctx's cause; no mount, cgroup or process is left, whatever
// happened.
//
// Exec runs one more process in the container with an id that a Run of this runner runs at that time, from the call of its
// [IO.Started] on; otherwise the error is [ErrNotRunning]. It returns as Run does. When ctx ends the process is killed, but
// not those that it has started; all of them end with the container's first process.
type Runner interface {
	Run(ctx context.Context, spec *Spec, streams IO) error
	Exec(ctx context.Context, id string, p *Process, streams IO) error
}

// ExitError tells how a process ended when it did not exit with 0.
type ExitError struct {
	Code   int // exit code; 128 + signal when killed by one, as shells report it
	Signal int // 0 when the process exited by itself
	// OOM is set when the kernel killed a process of the container for memory.
	OOM bool
	// MemoryLimit is that of the container in bytes; 0 is none of its own.
	MemoryLimit int64
	// InMemory is how much memory what the process changed has taken, in bytes, where the store's filesystem cannot have it. Full is
	// set when there was no more of it.
	InMemory int64
	Full     bool
}

func (e *ExitError) Error() string {
	const instead = "put the store on a volume (--root), or have steps run in place (--isolation=none)"
	switch {
	case e.Full:
		return fmt.Sprintf("%s; the memory for what the step changes is full (%s): %s", e.end(), units.BytesSize(float64(e.InMemory)), instead)
	case e.InMemory > 0 && e.Code == 128+int(unix.SIGKILL):
		return fmt.Sprintf("%s; what the step changed took %s of memory: %s", e.end(), units.BytesSize(float64(e.InMemory)), instead)
	}
	return e.end()
}

// end is how it ended.
func (e *ExitError) end() string {
	memory := "out of memory"
	if e.MemoryLimit > 0 {
		memory += fmt.Sprintf(" (limit %s)", units.BytesSize(float64(e.MemoryLimit)))
	}
	switch {
	case e.OOM && e.Code == 128+int(unix.SIGKILL):
		return fmt.Sprintf("process was killed: %s (exit code: %d)", memory, e.Code)
	case e.OOM:
		return fmt.Sprintf("exit code: %d, and a process was killed: %s", e.Code, memory)
	case e.Signal != 0:
		return fmt.Sprintf("process was killed by signal %d (exit code: %d)", e.Signal, e.Code)
	}
	return fmt.Sprintf("exit code: %d", e.Code)
}
