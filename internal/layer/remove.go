package layer

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveAll removes the object at a path, and everything below it, if it is there. Unlike os.RemoveAll it holds
// two descriptors however deep the tree is, and it does not leave the filesystem that the object is on: a mount
// point in the tree is an error. No symbolic link is followed, also when the tree changes meanwhile.
func RemoveAll(name string) error {
	parent, base := filepath.Split(filepath.Clean(name))
	if base == "" || base == "." || base == ".." {
		return &os.PathError{Op: "remove", Path: name, Err: unix.EINVAL}
	}
	fd, err := unix.Open(filepath.Clean(parent+"."), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		err = removeAt(fd, base)
		unix.Close(fd)
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// level is a directory on the way down in a tree that is removed.
type level struct {
	name     string // in the level above
	dev, ino uint64
	names    []string // that are left in it
}

// removeAt is RemoveAll for an entry of an open directory.
func removeAt(dirfd int, base string) error {
	if err := unix.Unlinkat(dirfd, base, 0); err != unix.EISDIR {
		return absent(err)
	}
	var way []level
	fd, err := descend(dirfd, base, &way)
	if err != nil {
		return absent(err)
	}
	for {
		at := &way[len(way)-1]
		if n := len(at.names); n > 0 {
			name := at.names[n-1]
			at.names = at.names[:n-1]
			err := unix.Unlinkat(fd, name, 0)
			if err == unix.EISDIR {
				var next int
				if next, err = descend(fd, name, &way); err == nil {
					unix.Close(fd)
					fd = next
				}
			}
			if absent(err) != nil {
				unix.Close(fd)
				return err
			}
			continue
		}
		done := at.name
		way = way[:len(way)-1]
		up, err := ascend(dirfd, fd, way)
		unix.Close(fd)
		if err != nil {
			return err
		}
		err = absent(unix.Unlinkat(up, done, unix.AT_REMOVEDIR))
		if len(way) == 0 {
			return err
		}
		if fd = up; err != nil {
			unix.Close(fd)
			return err
		}
	}
}

// descend opens a directory, reads what is in it, and appends it to the way.
func descend(dirfd int, name string, way *[]level) (int, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && len(*way) > 0 && st.Dev != (*way)[0].dev {
		err = unix.EBUSY // as for a mount point that is removed
	}
	var names []string
	if err == nil {
		names, err = readNames(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	*way = append(*way, level{name, st.Dev, st.Ino, names})
	return fd, nil
}

// ascend opens the parent of fd, which must be the last of the way; above the first is dirfd.
func ascend(dirfd, fd int, way []level) (int, error) {
	if len(way) == 0 {
		return dirfd, nil
	}
	up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(up, &st); err == nil && (st.Ino != way[len(way)-1].ino || st.Dev != way[len(way)-1].dev) {
		err = errors.New("a directory was moved while it was being removed")
	}
	if err != nil {
		unix.Close(up)
		return -1, err
	}
	return up, nil
}

// absent forgives that there is nothing to remove.
func absent(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}
