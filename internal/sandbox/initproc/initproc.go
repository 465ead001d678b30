// Package initproc is the inner side of the sandbox: what the first process of a container does
// before it becomes the wanted program.
//
// # Structure
//
// libcontainer starts a container by executing this very binary again, with the argument "init"
// and file descriptors named in the environment. C code of nsenter then enters the namespaces
// before Go starts, and [Run] does the rest. It is called from this package's init function, so
// that the many packages of the program that sort after this one need not initialize: this is
// several milliseconds of each container start.
package initproc

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces, in C, before Go runs
	"golang.org/x/sys/unix"
)

func init() { Run() }

// Run becomes the container's process and never returns, if this process was started for that.
// Otherwise it does nothing.
func Run() {
	if len(os.Args) < 2 || os.Args[1] != "init" || os.Getenv("_LIBCONTAINER_INITPIPE") == "" {
		return
	}
	// nsenter's clones cleared the signal; libcontainer keeps it from here on. The parent is the
	// thread that waits for the container, so nothing outlives a killed slipway. An error leaves
	// just that protection away.
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	libcontainer.Init()
}
