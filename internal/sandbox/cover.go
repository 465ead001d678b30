package sandbox

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/program"
	"golang.org/x/sys/unix"
)

// cover has containers start from a small program that knows nothing but that. libcontainer
// executes this very program again, in which everything is initialized that some build may need:
// a good part of what a short RUN takes.
//
// libcontainer finds the program by its path, as the calling thread sees it, and this thread has
// a mount namespace of its own: there the directory of the program is covered by another one,
// with the small program under the same name.
type cover struct {
	self string       // path of this program
	dir  string       // the covering directory
	make func() error // fills dir, once
}

// newCover returns nil if this program has no small one in it, or keep, a directory for it, is "".
func newCover(keep string) *cover {
	if keep == "" {
		return nil
	}
	from, err := program.Open()
	if err != nil {
		return nil
	}
	return coverWith(from, keep)
}

// coverWith covers this program by what from has. All of this is optional: containers start
// without it too.
func coverWith(from io.ReadCloser, keep string) *cover {
	c := &cover{}
	c.make = sync.OnceValue(func() (err error) {
		defer from.Close()
		if c.self, err = os.Readlink("/proc/self/exe"); err != nil {
			return err
		}
		if c.dir, err = os.MkdirTemp(keep, "init-"); err != nil { // several runners may have one keep
			return err
		}
		// A process that is started meanwhile would inherit the descriptor, until it executes its
		// program; and a file that anybody has open for writing cannot be executed.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		return program.Write(from, filepath.Join(c.dir, filepath.Base(c.self)))
	})
	return c
}

// mount covers the program in the namespace of the calling thread and reports whether it did.
func (c *cover) mount(b *bundle) bool {
	if c == nil || c.make() != nil {
		return false
	}
	dir := filepath.Dir(c.self)
	return !hides(dir, b.scratch, b.oci.Mounts) && unix.Mount(c.dir, dir, "", unix.MS_BIND, "") == nil
}

// hides reports whether libcontainer may look for something in a directory: the container, which
// is in scratch, or a source of the mounts that are left to it.
func hides(dir, scratch string, mounts []specs.Mount) bool {
	return dir == "/" || strings.HasPrefix(scratch, dir+"/") ||
		slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Type == "bind" })
}
