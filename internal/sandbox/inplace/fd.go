package inplace

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// openDir opens a directory that is no link.
func openDir(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// named is a directory that was made.
type named struct {
	fd   int
	name string
}

// makeDir makes a directory, or opens it if it is there.
func (m *Machine) makeDir(at int, name string) (named, error) {
	err := unix.Mkdirat(at, name, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return named{}, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := openDir(at, name)
	if err != nil {
		return named{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return named{fd, name}, nil
}

// readNames lists a directory from its beginning, sorted.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, os.NewSyscallError("lseek", err)
	}
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// afterMove is called after each move; for tests.
var afterMove = func() {}

// rename moves something to a name that is free.
func rename(from int, name string, to int, as string) error {
	defer afterMove()
	err := unix.Renameat2(from, name, to, as, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(to, as, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return unix.EEXIST
	}
	return unix.Renameat(from, name, to, as)
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// look is what a directory is besides what is in it: owner, mode, extended attributes and the time of its last change.
type look struct {
	UID, GID, Mode uint32
	Mtime          int64
	Xattrs         map[string]string
}

func lookOf(fd int) (l look, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return l, os.NewSyscallError("fstat", err)
	}
	l = look{UID: st.Uid, GID: st.Gid, Mode: st.Mode, Mtime: st.Mtim.Nano()}
	l.Xattrs, err = xattrs(fd)
	return l, err
}

// isForeign reports whether a directory belongs to somebody else, so that it cannot look otherwise.
func (l look) isForeign() bool {
	me := os.Geteuid()
	return me != 0 && int(l.UID) != me
}

// apply makes a directory look so, as far as it belongs to who slipway is.
func (l look) apply(fd int) error {
	now, err := lookOf(fd)
	if err != nil {
		return err
	}
	if now.isForeign() {
		return nil
	}
	if os.Geteuid() != 0 {
		l.UID, l.GID = now.UID, now.GID // which it cannot change
	}
	if l.UID != now.UID || l.GID != now.GID {
		if err := unix.Fchown(fd, int(l.UID), int(l.GID)); err != nil {
			return os.NewSyscallError("fchown", err)
		}
	}
	for name := range now.Xattrs {
		if _, ok := l.Xattrs[name]; !ok {
			if err := unix.Fremovexattr(fd, name); err != nil {
				return os.NewSyscallError("fremovexattr", err)
			}
		}
	}
	for name, value := range l.Xattrs {
		if now.Xattrs[name] != value {
			if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil {
				return os.NewSyscallError("fsetxattr", err)
			}
		}
	}
	if l.Mode != now.Mode || l.UID != now.UID || l.GID != now.GID {
		if err := unix.Fchmod(fd, l.Mode&0o7777); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
	}
	return setTime(fd, l.Mtime)
}

// setTime sets the time of the last change of an open directory.
func setTime(fd int, mtime int64) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime)}
	err := unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		return nil // it is somebody else's
	}
	return os.NewSyscallError("utimensat", err)
}

// xattrs are the extended attributes of a directory that can be changed here.
func xattrs(fd int) (map[string]string, error) {
	buf := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("flistxattr", err)
	}
	all := map[string]string{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl") {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, os.NewSyscallError("fgetxattr", err)
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// moving says what an error is of.
func moving(path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: "move", Path: "/" + path, Err: err}
}
