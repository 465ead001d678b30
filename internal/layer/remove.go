package layer

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveAll removes the object at a path, and everything below it, if it is there. Unlike os.RemoveAll it holds
// two descriptors however deep the tree is, and it does not leave the filesystem that the object is on: a mount
// point in the tree is an error. No symbolic link is followed, also when the tree changes meanwhile. A directory that its owner
// may not list, as overlayfs leaves one, is made one that he may.
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
		err = remover{open: true}.at(fd, base)
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

// removeAt is RemoveAll for an entry of an open directory, which takes nothing out of directories that nobody may take
// something out of.
func removeAt(dirfd int, base string) error { return remover{}.at(dirfd, base) }

type remover struct {
	open bool // directories that their owner may not list or change
}

func (r remover) at(dirfd int, base string) error {
	if err := unix.Unlinkat(dirfd, base, 0); err != unix.EISDIR {
		return absent(err)
	}
	var way []level
	fd, err := r.descend(dirfd, base, &way)
	if err != nil {
		return absent(err)
	}
	for {
		at := &way[len(way)-1]
		if n := len(at.names); n > 0 {
			name := at.names[n-1]
			at.names = at.names[:n-1]
			err := r.unlink(fd, name, 0)
			if err == unix.EISDIR {
				var next int
				if next, err = r.descend(fd, name, &way); err == nil {
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
		if len(way) == 0 {
			return absent(unix.Unlinkat(up, done, unix.AT_REMOVEDIR))
		}
		err = absent(r.unlink(up, done, unix.AT_REMOVEDIR))
		if fd = up; err != nil {
			unix.Close(fd)
			return err
		}
	}
}

// descend opens a directory, reads what is in it, and appends it to the way.
func (r remover) descend(dirfd int, name string, way *[]level) (int, error) {
	fd, err := r.openDir(dirfd, name)
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

// openDir opens a directory whose entries are going to be removed.
func (r remover) openDir(dirfd int, name string) (int, error) {
	const flags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|flags, 0)
	if err != unix.EACCES || !r.open {
		return fd, err
	}
	at, err := unix.Openat(dirfd, name, unix.O_PATH|flags, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	if chmodOf(at, 0o700) != nil {
		return -1, unix.EACCES
	}
	return unix.Openat(dirfd, name, unix.O_RDONLY|flags, 0)
}

// unlink is unlinkat(2) for a directory in what is removed.
func (r remover) unlink(fd int, name string, flags int) error {
	err := unix.Unlinkat(fd, name, flags)
	if err == unix.EACCES && r.open && chmodOf(fd, 0o700) == nil {
		err = unix.Unlinkat(fd, name, flags)
	}
	return err
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
