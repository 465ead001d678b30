package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Reset deletes the store at root with everything in it, whatever its version and flavor, and whether or not its records can be
// read. Nobody may use it. What has its directory's name but is no store stays. A directory that cannot be removed, such as one
// that something is mounted at, stays as an empty one.
func Reset(root string) (err error) {
	root, err = filepath.Abs(root)
	if err == nil {
		err = reset(root)
	}
	if err != nil {
		return fmt.Errorf("removing store %s: %w", root, err)
	}
	return nil
}

func reset(root string) error {
	if _, err := os.Lstat(filepath.Join(root, "meta.db")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is none: %w", ErrNotFound)
		}
		return err
	}
	if err := errors.Join(ownPath(root), noOthers(root)); err != nil {
		return err
	}
	dir, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := private(dir); err != nil {
		return err
	}
	unlock, err := lockWhole(root)
	if err != nil {
		return err
	}
	defer unlock()
	// The records go last: what is left when this ends halfway is still a store, for whoever resets again.
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != "meta.db" && name != "lost+found" {
			err = errors.Join(err, layer.RemoveAll(filepath.Join(root, name)))
		}
	}
	if err == nil {
		err = os.Remove(filepath.Join(root, "meta.db"))
	}
	if err != nil {
		return fmt.Errorf("%w: as root of the machine, or in the user namespace in which it was made, it can be deleted with rm -rf", err)
	}
	_ = os.Remove(root)
	return nil
}

// lockWhole keeps everybody from using the store, unless somebody does.
func lockWhole(root string) (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			f.Close()
		}
	}
	containers, err := filepath.Glob(filepath.Join(root, "containers", "*", "lock"))
	for _, name := range append([]string{filepath.Join(root, "layers")}, containers...) {
		f, oerr := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if errors.Is(oerr, fs.ErrNotExist) {
			continue
		}
		if err = errors.Join(err, oerr); err != nil {
			break
		}
		held = append(held, f)
		if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process uses it: end its builds and containers first")
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
