package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/overlay"
	"golang.org/x/sys/unix"
)

// A container's root is an overlay nearly everywhere, and the kernel does not keep an overlay's changes on another one. Where a
// store is there, what a process changes is in memory until it has ended.

// elsewhere are changes in memory that belong to a directory.
type elsewhere struct {
	memory *os.File
	upper  string
}

// mountElsewhere mounts a root whose upper directory the kernel does not take.
func (b *bundle) mountElsewhere(target string, lower []string, upper string, opt overlay.Options) error {
	memory, work := target+".upper", target+".work"
	for _, dir := range []string{memory, work} {
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("making a directory for changes: %w", err)
		}
	}
	err := copyChanges(upper, memory, true)
	if err == nil {
		err = overlay.Mount(target, lower, memory, work, opt)
	}
	if err != nil {
		return err
	}
	f, err := os.Open(memory)
	if err == nil {
		b.elsewhere = append(b.elsewhere, elsewhere{f, upper})
	}
	return err
}

// isOverlay reports whether a directory is on an overlay.
func isOverlay(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// bringBack puts changes where they belong, when nobody can change them any more, and forgets them.
func (b *bundle) bringBack(ended bool) error {
	var errs []error
	for _, e := range b.elsewhere {
		if ended {
			errs = append(errs, e.bringBack())
		}
		errs = append(errs, e.memory.Close())
	}
	b.elsewhere = nil
	return errors.Join(errs...)
}

func (e elsewhere) bringBack() error {
	before, err := os.ReadDir(e.upper) // what it began with
	if err != nil {
		return err
	}
	for _, entry := range before {
		if err := os.RemoveAll(filepath.Join(e.upper, entry.Name())); err != nil {
			return err
		}
	}
	if err := copyChanges(fmt.Sprint("/proc/self/fd/", e.memory.Fd()), e.upper, false); err != nil {
		return fmt.Errorf("writing what was changed in memory, as the store is on an overlay filesystem: %w", err)
	}
	return nil
}

// copyChanges copies what is in an upper directory to another one. recorded says that there may be records beside the first.
func copyChanges(from, to string, recorded bool) error {
	flavor := layer.Trusted
	if nested() {
		flavor = layer.User
	}
	w, err := layer.NewDirWriter(to)
	if err != nil {
		return err
	}
	w.SetFlavor(flavor, flavor.Records(to))
	opt := layer.DirOptions{Overlay: true, Flavor: flavor}
	if recorded {
		opt.Records = flavor.Records(from)
	}
	tree := layer.OpenDir(from, opt)
	if err := errors.Join(layer.WriteTree(tree, w), w.Close()); err != nil {
		return err
	}
	root, err := openFile(from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(copyDirAttributes(root, to), root.Close())
}

// elsewhereNotice is what the user should know of changes that are in memory.
const elsewhereNotice = "the store is on an overlay filesystem, as a container's root is: what a step changes is in memory until it ends (--root on a volume does without)"
