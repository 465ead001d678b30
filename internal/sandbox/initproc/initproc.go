// Package initproc is the inner side of the sandbox: what the first process of a container does
// before it becomes the wanted program.
//
// # Structure
//
// libcontainer starts a container by executing this very binary again, with the argument "init"
// and file descriptors named in the environment. C code of nsenter then enters the namespaces
// before Go starts, and [Run] does the rest. An external OCI runtime is started in a similar way,
// see [RuntimeCommand]. Run is called from this package's init function, so
// that the many packages of the program that sort after this one need not initialize, at each
// start of a container.
package initproc

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces, in C, before Go runs
	"golang.org/x/sys/unix"
)

func init() { Run() }

// runtimeVariable names the environment variable with the OCI runtime that is to be executed.
const runtimeVariable = "_SLIPWAY_RUNTIME"

// Run becomes the container's process and never returns, if this process was started for that.
// Otherwise it does nothing.
func Run() {
	if len(os.Args) < 2 || os.Args[1] != "init" {
		return
	}
	if os.Getenv(watchdogVariable) != "" {
		watch(3)
		os.Exit(0)
	}
	if path := os.Getenv(runtimeVariable); path != "" {
		fmt.Fprintln(os.Stderr, becomeRuntime(path, os.Args[2:]))
		os.Exit(255)
	}
	if os.Getenv("_LIBCONTAINER_INITPIPE") == "" {
		return
	}
	// nsenter's clones cleared the signal; libcontainer keeps it from here on. The parent is the
	// thread that waits for the container, so nothing outlives a killed slipway. An error leaves
	// just that protection away.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if err := startGate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
	libcontainer.Init()
}

// RuntimeCommand is a command that executes an OCI runtime as the first process of a pid
// namespace. Whoever kills it kills all containers that it has made; and it dies with the thread
// that starts it.
func RuntimeCommand(path string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"init"}, args...)...)
	cmd.Env = append(os.Environ(), runtimeVariable+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setpgid: true,
	}
	return cmd
}

// becomeRuntime executes the runtime; it returns only an error. The mount namespace is private,
// its /proc is still that of the parent's pid namespace.
func becomeRuntime(path string, args []string) error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc for the OCI runtime: %w", err)
	}
	if err := os.Unsetenv(runtimeVariable); err != nil {
		return fmt.Errorf("preparing the OCI runtime: %w", err)
	}
	err := unix.Exec(path, append([]string{path}, args...), os.Environ())
	return fmt.Errorf("executing the OCI runtime %s: %w", path, err)
}
