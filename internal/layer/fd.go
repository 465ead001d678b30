package layer

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// noOpenat2 remembers that this kernel, or a seccomp filter around this process, has no openat2.
var noOpenat2 atomic.Bool

// openBeneath opens the object at a clean relative path below dirfd without following any
// symbolic link, also not in its parents. A symbolic link, or anything else that is no directory,
// among the parents gives ENOTDIR.
//
// The kernel takes no path of unix.PathMax bytes: a longer one is opened in parts, up to maxDepth bytes.
func openBeneath(dirfd int, name string, flags int, mode uint32) (int, error) {
	if len(name) < unix.PathMax {
		return openShort(dirfd, name, flags, mode)
	}
	if len(name) > maxDepth {
		return -1, unix.ENAMETOOLONG
	}
	cur := dirfd
	defer func() {
		if cur != dirfd {
			unix.Close(cur)
		}
	}()
	for len(name) >= unix.PathMax {
		end := strings.LastIndexByte(name[:unix.PathMax], '/')
		if end <= 0 {
			return -1, unix.ENAMETOOLONG
		}
		fd, err := openShort(cur, name[:end], unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return -1, err
		}
		if cur != dirfd {
			unix.Close(cur)
		}
		cur, name = fd, name[end+1:]
	}
	return openShort(cur, name, flags, mode)
}

// maxDepth bounds how long paths are, in bytes: what walks a tree has the path of each of its directories in memory, which are of whoever made them.
const maxDepth = 16 << 10

// openShort is [openBeneath] of a path that the kernel takes.
func openShort(dirfd int, name string, flags int, mode uint32) (int, error) {
	if !noOpenat2.Load() {
		how := unix.OpenHow{
			Flags:   uint64(flags | unix.O_CLOEXEC),
			Mode:    uint64(mode),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		for {
			fd, err := unix.Openat2(dirfd, name, &how)
			switch err {
			case unix.EINTR, unix.EAGAIN:
				continue
			case unix.ENOSYS, unix.EPERM:
				if err == unix.EPERM && openat2Works(dirfd) {
					return -1, err
				}
				noOpenat2.Store(true)
			case unix.ELOOP:
				return -1, unix.ENOTDIR
			default:
				return fd, err
			}
			break
		}
	}
	return openStepwise(dirfd, name, flags, mode)
}

// openat2Works tells an EPERM of the file from one of a seccomp filter.
func openat2Works(dirfd int) bool {
	fd, err := unix.Openat2(dirfd, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// openStepwise does what openBeneath does with one openat per component.
func openStepwise(dirfd int, name string, flags int, mode uint32) (int, error) {
	if strings.HasPrefix(name, "/") || name == ".." || strings.HasPrefix(name, "../") {
		return -1, unix.EXDEV
	}
	cur := dirfd
	defer func() {
		if cur != dirfd {
			unix.Close(cur)
		}
	}()
	for {
		first, rest, more := strings.Cut(name, "/")
		if !more {
			fd, err := unix.Openat(cur, first, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
			if err == unix.ELOOP {
				err = unix.ENOTDIR
			}
			return fd, err
		}
		fd, err := unix.Openat(cur, first, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		if cur != dirfd {
			unix.Close(cur)
		}
		cur, name = fd, rest
	}
}

// procPath is a path that names an open descriptor, or an entry of an open directory, for the
// system calls that have no *at form. The last component is not followed by the l... calls.
func procPath(fd int, name string) string {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if name != "" {
		p += "/" + name
	}
	return p
}

// chmodOf is fchmod(2) also for a descriptor that was opened with O_PATH.
func chmodOf(fd int, mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, procPath(fd, ""), mode, 0)
}

// pathError names a path of a layer or tree in the style of package os.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// isMissing reports whether err tells that there is nothing at a path.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// join appends a name to a tree's path.
func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}

// split gives the parent and the last component of a clean relative path; the parent of a
// top-level name, and of the root, is ".".
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return ".", name
}

// IsName reports whether something in a directory may have a name.
func IsName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// Clean makes a path as it may be written by a user, absolute or relative, into the form that
// trees use: relative to the root, without "." and with ".." kept inside.
func Clean(name string) string {
	p := path.Clean("/" + name)
	if p == "/" {
		return "."
	}
	return p[1:]
}
