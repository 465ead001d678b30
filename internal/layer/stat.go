package layer

import (
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	overlayPrefix     = "trusted.overlay."
	userOverlayPrefix = "user.overlay."
)

// KeepsXattr reports whether layers have an extended attribute.
func KeepsXattr(name string) bool { return keepXattr(name) }

// keepXattr tells which extended attributes belong to a file's content in an image. Overlay's own
// are bookkeeping of one mount, records (recorded.go) of one store, the other security ones are labels of one host's policy.
func keepXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, overlayPrefix), strings.HasPrefix(name, userOverlayPrefix), strings.HasPrefix(name, RecordPrefix):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "trusted."):
		return true
	}
	switch name {
	case "security.capability", "security.ima", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return false
}

// fromStat makes e the entry of what lstat gives. Link, Content and Xattrs are left to the caller.
func fromStat(e *Entry, name string, st *unix.Stat_t) {
	*e = Entry{
		Path:    name,
		Mode:    st.Mode,
		UID:     st.Uid,
		GID:     st.Gid,
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch e.Type() {
	case unix.S_IFREG:
		e.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	if e.Type() != unix.S_IFDIR && st.Nlink > 1 {
		e.Inode, e.Dev, e.Nlink = st.Ino, st.Dev, uint64(st.Nlink)
	}
}

// isWhiteout reports whether an entry of an overlay-native directory stands for a removal.
func isWhiteout(e *Entry) bool {
	return e.Type() == unix.S_IFCHR && e.Major == 0 && e.Minor == 0
}

// xattrs are the extended attributes of a file.
type xattrs struct {
	attrs  map[string]string // that belong to its content
	held   map[string]string // that are recorded
	opaque bool              // overlay's mark of a directory
	record string            // of what the disk cannot hold of it
	white  bool              // overlay's mark of an empty file that is a whiteout
}

// readNamed reads the attributes whose names are the first n bytes of the buffer.
func readNamed(name string, f Flavor, buf []byte, n int) (x xattrs, _ []byte, err error) {
	opaque, white := f.opaque(), f.whiteout()
	for _, key := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		attr := key
		if f == User {
			attr = strings.TrimPrefix(key, HeldRecord)
		}
		if !keepXattr(attr) && key != opaque && key != white && (f != User || key != OwnerRecord) {
			continue
		}
		n, err := growing(&buf, func(b []byte) (int, error) { return unix.Lgetxattr(name, key, b) })
		if err == unix.ENODATA || err == unix.EACCES {
			continue // removed since it was listed; or of a file that cannot be read: its content will tell
		}
		if err != nil {
			return xattrs{}, buf, err
		}
		switch key {
		case opaque:
			x.opaque = string(buf[:n]) == "y"
			continue
		case white:
			x.white = true
			continue
		}
		if key == OwnerRecord {
			x.record = string(buf[:n])
			continue
		}
		to := &x.attrs
		if attr != key {
			to = &x.held
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[attr] = string(buf[:n])
	}
	return x, buf, nil
}

// noListxattrat remembers that this kernel (before 6.13), or a seccomp filter around this process,
// has no listxattrat.
var noListxattrat atomic.Bool

// listxattrat lists the attributes of an entry of an open directory, which is not followed.
func listxattrat(dirfd int, base string, buf []byte) (int, error) {
	if !noListxattrat.Load() {
		name, err := unix.BytePtrFromString(base)
		if err != nil {
			return 0, err
		}
		n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dirfd), uintptr(unsafe.Pointer(name)),
			unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.ENOSYS, unix.EPERM:
			noListxattrat.Store(true)
		default:
			return 0, errno
		}
	}
	return unix.Llistxattr(procPath(dirfd, base), buf)
}

// growing calls read with a buffer that it makes larger as long as ERANGE comes back.
func growing(buf *[]byte, read func([]byte) (int, error)) (int, error) {
	if len(*buf) == 0 {
		*buf = make([]byte, 1024)
	}
	for {
		n, err := read(*buf)
		if err != unix.ERANGE {
			return n, err
		}
		*buf = make([]byte, 8*len(*buf))
	}
}
