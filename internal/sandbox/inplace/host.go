package inplace

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// lookAround notes how the directories look that stay, and of which only what is in them is moved.
func (m *Machine) lookAround() error {
	for _, path := range append(slices.Collect(maps.Keys(m.through)), ".") {
		fd, err := openDir(m.root, path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return moving(path, err)
		}
		m.looks[path], err = lookOf(fd)
		unix.Close(fd)
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

// hostOut moves what is in a directory, but what stays, to another one.
func (m *Machine) hostOut(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		if m.stays[path] {
			continue
		}
		err := error(unix.EXDEV)
		if !m.through[path] {
			err = m.hostOutAlone(from, to, name, path)
		}
		switch {
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EACCES) && (isMountPoint(from, name) || !mayChange(from, name)):
			m.stays[path] = true // something is mounted there, or it is somebody else's who lets nobody move what is in it
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EACCES): // a directory of somebody else's does not move elsewhere
			err = m.hostOutOf(from, to, name, path)
			if err != nil {
				return err
			}
		case err != nil:
			return moving(path, err)
		}
	}
	return nil
}

// hostOutOf moves what is in a directory that cannot be moved itself: something in it stays, or it is of a lower layer of the
// container's overlay filesystem. In the latter case it has moved when it is empty.
func (m *Machine) hostOutOf(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if err != nil {
		return moving(path, err)
	}
	defer unix.Close(src)
	l, err := lookOf(src)
	if err != nil {
		return moving(path, err)
	}
	dst, err := m.makeLike(to, name, l)
	if err != nil {
		return moving(path, err)
	}
	defer unix.Close(dst)
	if err := m.hostOut(src, dst, path); err != nil {
		return err
	}
	if err := setTime(dst, l.Mtime); err != nil || m.through[path] {
		return moving(path, err)
	}
	err = unix.Unlinkat(from, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		m.through[path], m.looks[path] = true, l
		err = m.write(journal{})
	}
	return moving(path, err)
}

// makeLike makes a directory that looks like another one from the beginning.
func (m *Machine) makeLike(at int, name string, l look) (int, error) {
	made, err := m.makeDir(m.ownFD, "new")
	if err != nil {
		return -1, err
	}
	if err = l.apply(made.fd); err == nil {
		err = rename(m.ownFD, made.name, at, name)
	}
	if err != nil {
		unix.Close(made.fd)
		return -1, err
	}
	return made.fd, nil
}

// hostIn puts back what is the container's own. It does the rest of it when that was begun before.
func (m *Machine) hostIn() error {
	host, err := openDir(m.dir, hostName)
	if err == nil {
		err = m.merge(host, m.root, ".")
		unix.Close(host)
		if err == nil {
			err = unix.Unlinkat(m.dir, hostName, unix.AT_REMOVEDIR)
		}
	} else if errors.Is(err, unix.ENOENT) {
		err = nil // it was put back before
	}
	if err == nil {
		err = m.lookAgain()
	}
	if err != nil {
		return err
	}
	err = unix.Unlinkat(m.dir, journalName, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// merge moves everything in a directory to another one. Directories that both have become one, which looks like the first.
func (m *Machine) merge(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		err := rename(from, name, to, name)
		if errors.Is(err, unix.EEXIST) && twins(from, to, name) {
			err = unix.Unlinkat(from, name, 0)
		}
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EXDEV) {
			err = m.mergeInto(from, to, name, path)
		}
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

func (m *Machine) mergeInto(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := m.merge(src, dst, path); err != nil {
		return err
	}
	if err := l.apply(dst); err != nil {
		return err
	}
	return unix.Unlinkat(from, name, unix.AT_REMOVEDIR)
}

// lookAgain has the directories that stay look as they did.
func (m *Machine) lookAgain() error {
	for path, l := range m.looks {
		fd, err := openDir(m.root, path)
		if errors.Is(err, unix.ENOENT) { // the step has removed it, with what was to stay
			continue
		}
		if err == nil {
			err = l.apply(fd)
			unix.Close(fd)
		}
		if err != nil {
			return moving(path, err)
		}
	}
	clear(m.looks)
	return nil
}

// hostOutAlone moves one thing. The container's overlay filesystem copies a file of a lower layer that is moved, and a file with several names once
// for each: so the further ones become names of the first copy.
func (m *Machine) hostOutAlone(from, to int, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Nlink < 2 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return rename(from, name, to, name)
	}
	file := inode{st.Dev, st.Ino}
	if first, ok := m.copies[file]; ok {
		err := unix.Linkat(m.dir, hostName+"/"+first, to, name, 0)
		if err == nil {
			afterMove()
			return unix.Unlinkat(from, name, 0)
		}
	}
	err := rename(from, name, to, name) // also where it may have no other name
	if err == nil {
		m.copies[file] = path
	}
	return err
}

// inode is a file, whatever its names.
type inode struct{ dev, ino uint64 }

// twins reports whether a name is that of the same file in two directories, as one is whose process died while it was moved.
func twins(from, to int, name string) bool {
	a, err := stampAt(from, name)
	b, berr := stampAt(to, name)
	return err == nil && berr == nil && a.mode&unix.S_IFMT == unix.S_IFREG && a.links > 1 &&
		a.mode == b.mode && a.size == b.size && a.mtime == b.mtime && a.uid == b.uid && a.gid == b.gid
}

// isMountPoint reports whether something is mounted at a name. The kernel says so before anything else only to who may write there.
func isMountPoint(dir int, name string) bool {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// mayChange reports whether this process may move what is in a directory.
func mayChange(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}
