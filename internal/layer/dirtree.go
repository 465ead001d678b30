package layer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// Owner is a numeric owner of files.
type Owner struct{ UID, GID uint32 }

// DirOptions tells how a host directory is read as a [Tree].
type DirOptions struct {
	// Overlay: the directory is overlay-native; character devices 0:0 are whiteouts and
	// trusted.overlay.opaque=y marks opaque directories.
	Overlay bool
	// Owner replaces the owner of every file, for directories that belong to a user.
	Owner *Owner
	// Immutable: nobody writes to the files any more (a layer of the store).
	Immutable bool
	// NoXattrs: extended attributes are not read (and those of an overlay are not known).
	NoXattrs bool
}

// dirTree is a Tree over a host directory. No path of it leaves the root: symbolic links are
// never followed, whoever changes the directory meanwhile.
type dirTree struct {
	root string
	opt  DirOptions
	id   uint64 // unlike that of any device and any other tree

	once sync.Once
	dir  *os.File // closed by its finalizer: trees have no end of life of their own
	err  error
}

// OpenDir gives a tree over the directory at root, which itself may be a symbolic link. The
// directory is opened at the first use; an error of that is an error of every call. The tree
// needs no closing; but it is an io.Closer, for a directory that is to be unmounted afterwards.
func OpenDir(root string, opt DirOptions) Tree {
	return &dirTree{root: root, opt: opt, id: newTreeID()}
}

func (t *dirTree) fd() (int, error) {
	t.once.Do(func() { t.dir, t.err = os.OpenFile(t.root, os.O_RDONLY|unix.O_DIRECTORY, 0) })
	if t.err != nil {
		return -1, t.err
	}
	return int(t.dir.Fd()), nil
}

// Close gives the directory back; every call after it fails.
func (t *dirTree) Close() error {
	if _, err := t.fd(); err != nil {
		return nil
	}
	return t.dir.Close()
}

func (t *dirTree) Lstat(name string) (*Entry, error) {
	root, err := t.fd()
	if err != nil {
		return nil, err
	}
	parent, base := split(name)
	dirfd := root
	if parent != "." {
		if dirfd, err = openBeneath(root, parent, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return nil, pathError("lstat", name, err)
		}
		defer unix.Close(dirfd)
	}
	e, _, err := t.entry(dirfd, base, name, nil)
	return e, err
}

func (t *dirTree) ReadDir(name string) ([]*Entry, error) {
	root, err := t.fd()
	if err != nil {
		return nil, err
	}
	fd, err := openBeneath(root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var buf []byte
	entries := make([]*Entry, 0, len(names))
	for _, base := range names {
		var e *Entry
		e, buf, err = t.entry(fd, base, join(name, base), buf)
		if isMissing(err) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// entry describes base in the open directory dirfd, whose path in the tree is name.
func (t *dirTree) entry(dirfd int, base, name string, buf []byte) (*Entry, []byte, error) {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error {
		return unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return nil, buf, pathError("lstat", name, err)
	}
	e := fromStat(name, &st)
	if t.opt.Overlay && e.Nlink > 1 {
		e.Dev = t.id // a file of another layer is no other name of this one, even with the same inode
	}
	if t.opt.Overlay && isWhiteout(e) {
		return &Entry{Path: name, Whiteout: true}, buf, nil
	}
	if t.opt.Owner != nil {
		e.UID, e.GID = t.opt.Owner.UID, t.opt.Owner.GID
	}
	switch e.Type() {
	case unix.S_IFLNK:
		link, err := readlinkat(dirfd, base)
		if err != nil {
			return nil, buf, pathError("readlink", name, err)
		}
		e.Link = link
	case unix.S_IFREG:
		if e.Size > 0 {
			e.Content = &hostFile{tree: t, path: name, stamp: stampOf(&st)}
		}
	}
	if t.opt.NoXattrs {
		return e, buf, nil
	}
	var opaque bool
	var err error
	e.Xattrs, opaque, buf, err = readXattrs(procPath(dirfd, base), buf)
	if err != nil {
		return nil, buf, pathError("listxattr", name, err)
	}
	e.Opaque = opaque && t.opt.Overlay && e.IsDir()
	return e, buf, nil
}

func readlinkat(dirfd int, base string) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, base, b)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(b[:n]), nil
		}
	}
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

// hostFile is the content of a regular file in a dirTree.
type hostFile struct {
	tree  *dirTree
	path  string
	stamp Stamp
}

// Stamp is what tells one version of a host's file from another: a file with the same stamp has
// the same content, unless it was written to within the clock's resolution.
type Stamp struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since the epoch
}

// Stamped is a Content that is a host's file in a certain version. Opening it fails when the file
// has another version by then.
type Stamped interface {
	Content
	Stamp() Stamp
}

func stampOf(st *unix.Stat_t) Stamp {
	return Stamp{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
}

// Stamp implements [Stamped].
func (f *hostFile) Stamp() Stamp { return f.stamp }

// Open gives an *os.File, so that what copies it may do so in the kernel.
func (f *hostFile) Open() (io.ReadCloser, error) {
	root, err := f.tree.fd()
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: should a pipe stand there by now, opening it must not wait for a writer.
	fd, err := openBeneath(root, f.path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, pathError("open", f.HostPath(), err)
	}
	if !f.tree.opt.Immutable {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || stampOf(&st) != f.stamp {
			unix.Close(fd)
			return nil, pathError("open", f.HostPath(), ErrChanged)
		}
	}
	return os.NewFile(uintptr(fd), f.HostPath()), nil
}

// ErrChanged marks a file of the user's that was written to while it was being read.
var ErrChanged = errors.New("file changed while it was being read: try again when nobody writes to it")

func (f *hostFile) HostPath() string { return filepath.Join(f.tree.root, f.path) }

func (f *hostFile) Immutable() bool { return f.tree.opt.Immutable }
