// Package initproc is the inner side of the sandbox: what the first process of a container does
// before it becomes the wanted program.
//
// # Structure
//
// [Start] executes a small program (program.c) in the container's namespaces, which makes the system calls that it is
// sent ([Calls]): what they are is decided outside, by package sandbox. The watchdog is the same program. An external OCI
// runtime is started by this very binary, executed again, see [RuntimeCommand]: for it Run is called from this package's
// init function, so that the many packages of the program that sort after this one need not initialize.
package initproc

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func init() { Run() }

// runtimeVariable names the environment variable with the OCI runtime that is to be executed.
const runtimeVariable = "_SLIPWAY_RUNTIME"

// Run becomes an OCI runtime and never returns, if this process was started for that.
// Otherwise it does nothing.
func Run() {
	if len(os.Args) < 2 || os.Args[1] != "init" {
		return
	}
	if path := os.Getenv(runtimeVariable); path != "" {
		fmt.Fprintln(os.Stderr, becomeRuntime(path, os.Args[2:]))
		os.Exit(255)
	}
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
