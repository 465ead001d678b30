package layer

import (
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lister describes entries of one open directory. It is for one goroutine.
type lister struct {
	t   *dirTree
	fd  int // the directory
	st  unix.Stat_t
	buf []byte // of extended attributes
}

// lister returns one for a directory that nothing was read of so far.
func (t *dirTree) lister(fd int) *lister { return &lister{t: t, fd: fd} }

// describe makes e the entry of base, whose path in the tree is name; file is its content, if it
// has one.
func (l *lister) describe(e *Entry, file *hostFile, base, name string) error {
	st, opt := &l.st, &l.t.opt
	for {
		err := unix.Fstatat(l.fd, base, st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return pathError("lstat", name, err)
		}
	}
	fromStat(e, name, st)
	if opt.Overlay && e.Nlink > 1 {
		e.Dev = l.t.id // a file of another layer is no other name of this one, even with the same inode
	}
	if opt.Overlay && isWhiteout(e) {
		*e = Entry{Path: name, Whiteout: true}
		return nil
	}
	if opt.Flavor == User {
		if opt.Overlay && !self().knows(e) {
			return pathError("lstat", name, ErrForeign)
		}
		self().fromDisk(e)
	}
	if opt.Owner != nil {
		e.UID, e.GID = opt.Owner.UID, opt.Owner.GID
	}
	stamp := stampOf(st)
	if opt.Memory != nil {
		e.Digest = opt.Memory.Recall(stamp)
	}
	switch e.Type() {
	case unix.S_IFLNK:
		link, err := readlinkat(l.fd, base)
		if err == unix.EINVAL { // another object has taken its place
			return l.describe(e, file, base, name)
		}
		if err != nil {
			return pathError("readlink", name, err)
		}
		e.Link = link
	case unix.S_IFREG:
		if e.Size > 0 {
			*file = hostFile{tree: l.t, path: name, stamp: stamp}
			e.Content = file
		}
	}
	if e.Content == nil {
		e.Digest = ""
	}
	if opt.NoXattrs {
		return nil
	}
	x, err := l.xattrs(base)
	if err != nil {
		return pathError("listxattr", name, err)
	}
	if x.white && opt.Overlay && e.IsRegular() && e.Size == 0 {
		*e = Entry{Path: name, Whiteout: true}
		return nil
	}
	e.Xattrs, e.Opaque = x.attrs, x.opaque && opt.Overlay && e.IsDir()
	if opt.Flavor == User {
		return l.t.recorded(e, &x)
	}
	return nil
}

func (l *lister) xattrs(base string) (x xattrs, err error) {
	n, err := growing(&l.buf, func(b []byte) (int, error) { return listxattrat(l.fd, base, b) })
	if err == unix.ENOTSUP || (err == nil && n == 0) {
		return xattrs{}, nil
	}
	if err == nil {
		x, l.buf, err = readNamed(procPath(l.fd, base), l.t.opt.Flavor, l.buf, n)
	}
	return x, err
}

var nameBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// readNames lists an open directory that nothing was read of so far, sorted.
func readNames(fd int) ([]string, error) {
	buf := nameBuffers.Get().(*[]byte)
	defer nameBuffers.Put(buf)
	var names []string
	for {
		n, err := unix.ReadDirent(fd, *buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent((*buf)[:n], -1, names)
	}
}

// joinAll is join for all names of a directory. The results are parts of one string.
func joinAll(dir string, names []string) []string {
	if dir == "." || dir == "" {
		return names
	}
	size := 0
	for _, n := range names {
		size += len(dir) + 1 + len(n)
	}
	var b strings.Builder
	b.Grow(size)
	for _, n := range names {
		b.WriteString(dir)
		b.WriteByte('/')
		b.WriteString(n)
	}
	all, paths := b.String(), make([]string, len(names))
	for i, n := range names {
		size := len(dir) + 1 + len(n)
		paths[i], all = all[:size], all[size:]
	}
	return paths
}
