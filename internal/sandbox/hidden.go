package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stub is a mount point that was made in an upper directory, because the upper directory hides
// the layer of mount points there (by a whiteout or an opaque directory). It is removed after
// the run.
type stub struct {
	path string // as seen through the mount
	// The parent's times before and after the stub was made: if nothing else changed the
	// directory, the former are restored.
	before, after unix.Stat_t
}

// makeHidden makes the mount points that are still missing at target.
func (b *bundle) makeHidden(target string, points []mountPoint) error {
	for _, p := range points {
		rel, err := missing(target, p)
		if err != nil {
			return err
		}
		if rel == "" {
			continue
		}
		path := target
		parts := strings.Split(rel, "/")
		for i, name := range parts {
			path = filepath.Join(path, name)
			if _, err := os.Lstat(path); err == nil {
				continue
			}
			s, err := makeStub(path, p.file && i == len(parts)-1)
			if err != nil {
				return fmt.Errorf("making mount point %s: %w", p.path, err)
			}
			b.made = append(b.made, s)
		}
	}
	return nil
}

func makeStub(path string, file bool) (s stub, err error) {
	s.path = path
	if err := unix.Stat(filepath.Dir(path), &s.before); err != nil {
		return s, err
	}
	if file {
		err = os.WriteFile(path, nil, 0o644)
	} else {
		err = makeDir(path)
	}
	if err != nil {
		return s, err
	}
	return s, unix.Stat(filepath.Dir(path), &s.after)
}

// uncover takes away what is mounted on the stubs: the root filesystem is unmounted with all
// that is below it, and mounted again alone.
func (b *bundle) uncover() error {
	bare, err := unix.OpenTree(unix.AT_FDCWD, b.rootfs, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return nil // then there was no premount, and nothing is mounted there
	}
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: b.rootfs, Err: err}
	}
	defer unix.Close(bare)
	if err := unmount(b.rootfs); err != nil {
		return err
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(bare, "", unix.AT_FDCWD, b.rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// remove removes the stub if it is still empty.
func (s stub) remove() error {
	info, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing a mount point: %w", err)
	}
	parent := filepath.Dir(s.path)
	var now unix.Stat_t
	if err := unix.Stat(parent, &now); err != nil {
		return fmt.Errorf("removing a mount point: %w", err)
	}
	if err := os.Remove(s.path); errors.Is(err, unix.ENOTEMPTY) {
		return nil
	} else if err != nil {
		return fmt.Errorf("removing a mount point: %w", err)
	}
	if now.Mtim == s.after.Mtim {
		now = s.before
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, parent, []unix.Timespec{now.Atim, now.Mtim}, 0); err != nil {
		return fmt.Errorf("restoring the times of a mount point's directory: %w", err)
	}
	return nil
}
