package sandbox

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
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
// with the small program under the same name. If it is not there in the end, libcontainer takes
// this program.
type cover struct {
	self string       // path of this program
	dir  string       // the covering directory
	make func() error // finds or fills dir, once
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
func coverWith(from fs.File, keep string) *cover {
	c := &cover{}
	c.make = sync.OnceValue(func() (err error) {
		defer from.Close()
		if c.self, err = os.Readlink("/proc/self/exe"); err != nil {
			return err
		}
		key, err := selfKey()
		if err != nil {
			return err
		}
		want, err := from.Stat()
		if err != nil {
			return err
		}
		c.dir = filepath.Join(keep, digest.FromString(key).Encoded()[:32])
		path := filepath.Join(c.dir, filepath.Base(c.self))
		if have, err := os.Stat(path); err == nil && have.Size() == want.Size() {
			return nil
		}
		return fillCover(c.dir, filepath.Base(c.self), from)
	})
	return c
}

// fillCover makes a covering directory, which other processes see whole, and removes those of
// other programs.
func fillCover(dir, name string, from io.Reader) error {
	keep := filepath.Dir(dir)
	if err := os.MkdirAll(keep, 0o711); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(keep, "new-")
	if err != nil {
		return err
	}
	err = writeProgram(filepath.Join(tmp, name), from)
	if err == nil {
		entries, _ := os.ReadDir(keep)
		for _, e := range entries {
			if e.Name() != filepath.Base(tmp) {
				_ = os.RemoveAll(filepath.Join(keep, e.Name()))
			}
		}
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		_ = os.RemoveAll(tmp)
	}
	return err
}

// writeProgram writes a program that will be there after a crash or not be seen.
func writeProgram(path string, from io.Reader) error {
	// A process that is started meanwhile would inherit the descriptor, until it executes its
	// program; and a file that anybody has open for writing cannot be executed.
	syscall.ForkLock.RLock()
	err := program.Write(from, path)
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// program is a program that does what this one does for containers: the small one, if it is there.
func (c *cover) program() string {
	if c == nil || c.make() != nil {
		return "/proc/self/exe"
	}
	return filepath.Join(c.dir, filepath.Base(c.self))
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
