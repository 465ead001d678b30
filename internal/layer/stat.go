package layer

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	overlayPrefix     = "trusted.overlay."
	userOverlayPrefix = "user.overlay."
	overlayOpaque     = "trusted.overlay.opaque"
)

// keepXattr tells which extended attributes belong to a file's content in an image. Overlay's own
// are bookkeeping of one mount, the other security ones are labels of one host's policy.
func keepXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, overlayPrefix), strings.HasPrefix(name, userOverlayPrefix):
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

// fromStat makes an entry of what lstat gives. Link, Content and Xattrs are left to the caller.
func fromStat(name string, st *unix.Stat_t) *Entry {
	e := &Entry{
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
	return e
}

// isWhiteout reports whether an entry of an overlay-native directory stands for a removal.
func isWhiteout(e *Entry) bool {
	return e.Type() == unix.S_IFCHR && e.Major == 0 && e.Minor == 0
}

// readXattrs reads the attributes of a file by a path whose last component is not followed. The
// buffer is grown when needed and handed back for the next file. opaque is overlay's mark of a
// directory.
func readXattrs(name string, buf []byte) (attrs map[string]string, opaque bool, _ []byte, err error) {
	n, err := growing(&buf, func(b []byte) (int, error) { return unix.Llistxattr(name, b) })
	if err == unix.ENOTSUP || (err == nil && n == 0) {
		return nil, false, buf, nil
	}
	if err != nil {
		return nil, false, buf, err
	}
	for _, key := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if !keepXattr(key) && key != overlayOpaque {
			continue
		}
		n, err := growing(&buf, func(b []byte) (int, error) { return unix.Lgetxattr(name, key, b) })
		if err == unix.ENODATA || err == unix.EACCES {
			continue // removed since it was listed; or of a file that cannot be read: its content will tell
		}
		if err != nil {
			return nil, false, buf, err
		}
		if key == overlayOpaque {
			opaque = string(buf[:n]) == "y"
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[key] = string(buf[:n])
	}
	return attrs, opaque, buf, nil
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
