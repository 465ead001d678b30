package layer

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// DropUnchanged removes from an overlay-native directory, which nobody else uses, what base below it
// has just the same ([Same]): a process that replaces files by equal ones, or makes and removes
// something in a directory, changes nothing; and an opaque directory that hides nothing is as any other. Names of one file stay, because base does not tell which
// names are one.
func DropUnchanged(dir string, f Flavor, base Tree) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	d := &dropper{root: root, dir: dir, base: base, upper: OpenDir(dir, DirOptions{Overlay: true, Flavor: f, Records: f.Records(dir)}), flavor: f}
	list, err := d.upper.ReadDir(".")
	if err != nil {
		return err
	}
	_, err = d.drop(".", list)
	return err
}

type dropper struct {
	root        *os.Root
	dir         string
	base, upper Tree
	flavor      Flavor
}

// manyEntries is from how many entries of a directory on base's are listed, not looked up one by one.
const manyEntries = 500

// lookup finds what base has of the entries of a directory; nil is nothing.
func (d *dropper) lookup(dir string, list []*Entry) (func(*Entry) (*Entry, error), error) {
	if len(list) < manyEntries {
		return func(e *Entry) (*Entry, error) {
			below, err := d.base.Lstat(e.Path)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
				return nil, nil
			}
			return below, err
		}, nil
	}
	all, err := d.base.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	byPath := make(map[string]*Entry, len(all))
	for _, e := range all {
		byPath[e.Path] = e
	}
	return func(e *Entry) (*Entry, error) { return byPath[e.Path], nil }, nil
}

// drop looks at the entries of a directory that base has too. all: they are gone.
func (d *dropper) drop(dir string, list []*Entry) (all bool, _ error) {
	find, err := d.lookup(dir, list)
	if err != nil {
		return false, err
	}
	left := len(list)
	for _, e := range list {
		gone, err := d.entry(e, find)
		if err != nil {
			return false, fmt.Errorf("comparing %q with the layers below: %w", e.Path, err)
		}
		if gone {
			left--
		}
	}
	return left == 0, nil
}

// entry removes what base has, and tells whether it did.
func (d *dropper) entry(e *Entry, find func(*Entry) (*Entry, error)) (gone bool, _ error) {
	if e.Whiteout || !e.Opaque && e.Nlink > 1 {
		return false, nil
	}
	below, err := find(e)
	if e.Opaque {
		if err == nil && (below == nil || !below.IsDir()) {
			err = d.reveal(e.Path)
		}
		return false, err
	}
	if err != nil || below == nil || e.IsDir() != below.IsDir() {
		return false, err
	}
	if e.IsDir() {
		list, err := d.upper.ReadDir(e.Path)
		if err != nil {
			return false, err
		}
		if all, err := d.drop(e.Path, list); !all || err != nil {
			return false, err
		}
	}
	if same, err := Same(below, e); !same || err != nil {
		return false, err
	}
	return true, d.remove(e.Path)
}

// reveal takes the mark from an opaque directory that hides nothing. Overlayfs marks what was moved or made in the place of
// something that was removed, wherever it came from; a layer is not to tell how a directory came to be.
func (d *dropper) reveal(name string) error {
	fd, err := d.root.Open(name)
	if err != nil {
		return err
	}
	defer fd.Close()
	err = unix.Fremovexattr(int(fd.Fd()), d.flavor.opaque())
	if err == unix.ENODATA {
		return nil
	}
	return os.NewSyscallError("fremovexattr", err)
}

// remove removes an object; the directory that it was in keeps its time.
func (d *dropper) remove(name string) error {
	parent, err := d.root.Stat(path.Dir(name))
	if err != nil {
		return err
	}
	if err := d.root.Remove(name); err != nil {
		return err
	}
	if path.Dir(name) == "." {
		return nil // the root's time is in no layer
	}
	return d.root.Chtimes(path.Dir(name), parent.ModTime(), parent.ModTime())
}
