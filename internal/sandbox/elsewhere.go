package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/slipway-build/slipway/internal/isolation"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/overlay"
	"golang.org/x/sys/unix"
)

// A container's root is an overlay nearly everywhere, and the kernel does not keep an overlay's changes on another one. Where a
// store is there, what a process changes is in memory until it has ended. That memory has a bound of its own, so that who writes too
// much is told so by the filesystem, and not killed.

// changesName is the directory of the changes in the memory.
const changesName = "upper"

// elsewhere are changes in memory that belong to a directory.
type elsewhere struct {
	memory *os.File
	upper  string
}

// mountElsewhere mounts a root whose upper directory the kernel does not take.
func (b *bundle) mountElsewhere(target string, lower []string, upper string, opt overlay.Options) error {
	memory, work, err := makeMemory(target + ".changes")
	if err == nil {
		err = copyChanges(upper, memory)
	}
	if err == nil && b.recordsOthers() {
		err = layer.Settle(memory)
	}
	if err == nil {
		lower, err = withWhiteouts(target+".white", lower)
	}
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

// makeMemory makes directories in memory for changes and overlayfs's own use.
func makeMemory(place string) (memory, work string, err error) {
	room := isolation.Room()
	if room == 0 {
		return "", "", errors.New("the store is on an overlay filesystem, and memory cannot hold what is changed before Linux 6.6: put it on a volume (--root)")
	}
	memory, work = filepath.Join(place, changesName), filepath.Join(place, "work")
	err = makeDir(place)
	if err == nil {
		err = os.NewSyscallError("mount tmpfs", unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID, fmt.Sprintf("mode=711,size=%d", max(room, leastMemory))))
	}
	if err == nil {
		err = errors.Join(makeDir(memory), makeDir(work))
	}
	if err != nil {
		err = fmt.Errorf("making a place in memory for changes: %w", err)
	}
	return memory, work, err
}

// leastMemory is what is tried however little there is.
const leastMemory = 16 << 20

// withWhiteouts puts a layer of whiteouts above each layer that is on an overlay and has some: there they are files, which older
// kernels do not take for whiteouts, and of which no kernel removes the directory.
func withWhiteouts(place string, lower []string) (all []string, err error) {
	if err := makeDir(place); err != nil {
		return nil, err
	}
	for i, dir := range lower {
		all = append(all, dir)
		if !isOverlay(dir) {
			continue
		}
		gone, err := whiteoutsOf(dir)
		if err != nil {
			return nil, err
		}
		if len(gone) == 0 {
			continue
		}
		white := filepath.Join(place, fmt.Sprint(i))
		if err := makeWhiteouts(dir, white, gone); err != nil {
			return nil, fmt.Errorf("making whiteouts: %w", err)
		}
		all = append(all, white)
	}
	return all, nil
}

// knownWhiteouts are those of layers, which do not change.
var knownWhiteouts sync.Map

// whiteoutsOf are the paths of the whiteouts of a layer.
func whiteoutsOf(dir string) (gone []string, err error) {
	if known, ok := knownWhiteouts.Load(dir); ok {
		return known.([]string), nil
	}
	tree := layer.OpenDir(dir, layer.DirOptions{Overlay: true, Flavor: ownFlavor(), Immutable: true})
	err = layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.Whiteout {
			gone = append(gone, e.Path)
		}
		return nil
	})
	if err == nil {
		knownWhiteouts.Store(dir, gone)
	}
	return gone, err
}

// makeWhiteouts makes the layer white of whiteouts, in directories as they are in the layer dir.
func makeWhiteouts(dir, white string, gone []string) error {
	merged, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer merged.Close()
	s := stubs{merged: merged, dir: white, known: map[string]bool{}}
	for _, path := range gone {
		if err := s.addDirs(filepath.Dir(path)); err != nil {
			return err
		}
		if err := unix.Mknod(filepath.Join(white, path), unix.S_IFCHR, 0); err != nil {
			return &os.PathError{Op: "mknod", Path: path, Err: err}
		}
	}
	return s.copyAttributes()
}

// addDirs makes a directory that merged has, and those above it.
func (s *stubs) addDirs(rel string) error {
	if rel == "." {
		rel = ""
	} else if err := s.addDirs(filepath.Dir(rel)); err != nil {
		return err
	}
	s.known[rel] = true
	return makeDir(filepath.Join(s.dir, rel))
}

// ownFlavor is that of the layers that this process mounts.
func ownFlavor() layer.Flavor {
	if nested() {
		return layer.User
	}
	return layer.Trusted
}

// isOverlay reports whether a directory is on an overlay.
func isOverlay(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// bringBack puts changes where they belong, when nobody can change them any more, and forgets them.
func (b *bundle) bringBack(wanted bool) error {
	var errs []error
	for _, e := range b.elsewhere {
		if wanted {
			errs = append(errs, e.bringBack())
		}
		errs = append(errs, e.memory.Close())
	}
	b.elsewhere = nil
	return errors.Join(errs...)
}

// dir is the path of the memory, also when it is not mounted any more. Records are beside it.
func (e elsewhere) dir() string {
	return fmt.Sprintf("/proc/self/fd/%d/../%s", e.memory.Fd(), changesName)
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
	if err := copyChanges(e.dir(), e.upper); err != nil {
		return fmt.Errorf("writing what was changed in memory, as the store is on an overlay filesystem: %w", err)
	}
	return nil
}

// copyChanges copies what is in an upper directory to another one, with the records beside it.
func copyChanges(from, to string) error {
	flavor := ownFlavor()
	w, err := layer.NewDirWriter(to)
	if err != nil {
		return err
	}
	w.SetFlavor(flavor, flavor.Records(to))
	tree := layer.OpenDir(from, layer.DirOptions{Overlay: true, Flavor: flavor, Records: flavor.Records(from)})
	if err := errors.Join(layer.WriteTree(tree, w), w.Close()); err != nil {
		return err
	}
	root, err := openFile(from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(copyDirAttributes(root, to), root.Close())
}

// tellMemory adds to a process's end what may have been its reason.
func (b *bundle) tellMemory(err error) {
	var exit *ExitError
	if !errors.As(err, &exit) {
		return
	}
	for _, e := range b.elsewhere {
		var fs unix.Statfs_t
		if unix.Fstatfs(int(e.memory.Fd()), &fs) != nil {
			continue
		}
		exit.InMemory += int64(fs.Blocks-fs.Bfree) * fs.Bsize
		exit.Full = exit.Full || fs.Bfree < fs.Blocks/fullPart
	}
}

// fullPart is of which part of the memory less is left when it is taken for full: not every program fills the last byte.
const fullPart = 32

// elsewhereNotice is what the user should know of changes that are in memory.
const elsewhereNotice = "the store is on an overlay filesystem, as a container's root is: what a step changes is in memory until it ends (--root on a volume does without)"
