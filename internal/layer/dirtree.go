package layer

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Owner is a numeric owner of files.
type Owner struct{ UID, GID uint32 }

// DirOptions tells how a host directory is read as a [Tree].
type DirOptions struct {
	// Overlay: the directory is overlay-native; character devices 0:0 are whiteouts and
	// trusted.overlay.opaque=y, or what it is in another flavor, marks opaque directories.
	Overlay bool
	// Flavor is that of the store that the directory belongs to.
	Flavor Flavor
	// Records is the file with the records of what cannot have attributes; "": there are none.
	Records string
	// Owner replaces the owner of every file, for directories that belong to a user.
	Owner *Owner
	// Immutable: nobody writes to the files any more (a layer of the store).
	Immutable bool
	// Live: processes that are not trusted write to it meanwhile. No device that they put in a file's place is
	// opened.
	Live bool
	// NoXattrs: extended attributes are not read (and those of an overlay are not known).
	NoXattrs bool
	// Memory knows files of the directory from before; nil: none. It is used concurrently.
	Memory Memory
}

// Memory remembers what files of the host are by their stamps.
type Memory interface {
	// Recall tells the digest of a file's content, or "".
	Recall(s Stamp) digest.Digest
	// Note says what it is of a version of the file that was read after a point in time.
	Note(s Stamp, read time.Time, sum digest.Digest)
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

	beside func() (map[string]sideRecord, error) // what the file of records has
}

// OpenDir gives a tree over the directory at root, which itself may be a symbolic link. The
// directory is opened at the first use; an error of that is an error of every call. The tree
// needs no closing; but it is an io.Closer, for a directory that is to be unmounted afterwards.
func OpenDir(root string, opt DirOptions) Tree {
	t := &dirTree{root: root, opt: opt, id: newTreeID()}
	if opt.Records != "" {
		t.beside = sync.OnceValues(func() (map[string]sideRecord, error) { return readRecords(opt.Records) })
	}
	return t
}

func (t *dirTree) fd() (int, error) {
	t.once.Do(func() {
		// os.Open would see whether Go can wait for it, which takes five system calls more.
		fd, err := unix.Open(t.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.err = &os.PathError{Op: "open", Path: t.root, Err: err}
			return
		}
		t.dir = os.NewFile(uintptr(fd), t.root)
	})
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
	defer runtime.KeepAlive(t) // dirfd may be its own
	var e Entry
	if err := t.lister(dirfd).describe(&e, new(hostFile), base, name); err != nil {
		return nil, err
	}
	return &e, nil
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
	defer unix.Close(fd)
	l := t.lister(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	entries, files := make([]Entry, len(names)), make([]hostFile, len(names))
	out := make([]*Entry, 0, len(names))
	for i, p := range joinAll(name, names) {
		err := l.describe(&entries[i], &files[i], names[i], p)
		switch {
		case err == nil:
			out = append(out, &entries[i])
		case !isMissing(err): // otherwise removed since it was listed
			return nil, err
		}
	}
	return out, nil
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
	fd, err := f.open()
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.HostPath()), nil
}

// open gives a descriptor of the file.
func (f *hostFile) open() (int, error) {
	root, err := f.tree.fd()
	if err != nil {
		return -1, err
	}
	// O_NONBLOCK: should a pipe stand there by now, opening it must not wait for a writer.
	flags := unix.O_RDONLY | unix.O_NONBLOCK
	if f.tree.opt.Live {
		flags = unix.O_PATH
	}
	fd, err := openBeneath(root, f.path, flags, 0)
	if err != nil {
		return -1, pathError("open", f.HostPath(), err)
	}
	if !f.tree.opt.Immutable {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || stampOf(&st) != f.stamp {
			unix.Close(fd)
			return -1, pathError("open", f.HostPath(), ErrChanged)
		}
	}
	if f.tree.opt.Live {
		real, err := unix.Open(procPath(fd, ""), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		return real, pathError("open", f.HostPath(), err)
	}
	return fd, nil
}

// fdReader reads a file by its descriptor, without what an *os.File costs.
type fdReader int

func (r fdReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(r), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// fdWriter writes to a file by its descriptor.
type fdWriter int

func (w fdWriter) Write(b []byte) (done int, _ error) {
	for done < len(b) {
		n, err := unix.Write(int(w), b[done:])
		if err != nil && err != unix.EINTR {
			return done, os.NewSyscallError("write", err)
		}
		done += max(n, 0)
	}
	return done, nil
}

func (r fdReader) Fd() uintptr { return uintptr(r) }

func (r fdReader) Close() error { return unix.Close(int(r)) }

// unchanged tells of a file of the user's that was read, r, whether it is still the version that
// was opened.
func unchanged(c Content, r io.Reader) error {
	s, stamped := c.(Stamped)
	f, file := r.(interface{ Fd() uintptr })
	if !stamped || !file || isImmutable(c) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || stampOf(&st) != s.Stamp() {
		return pathError("read", nameOf(c), ErrChanged)
	}
	return nil
}

func nameOf(c Content) string {
	if h, ok := c.(HostFile); ok {
		return h.HostPath()
	}
	return "file"
}

// ClockStep bounds the resolution of a filesystem's clock on Linux: a tick of 100 Hz, doubled.
const ClockStep = 20 * time.Millisecond

var processStart = time.Now()

// OlderThan reports whether the version was there before a point in time, as far as the clock of
// the filesystem can tell.
func (s Stamp) OlderThan(t time.Time) bool { return s.Ctime < t.Add(-ClockStep).UnixNano() }

// Settled reports whether the digest that this process knows of a content is that of what will be
// read, without digesting it again: nobody writes to the file any more, or the content is [Stamped], and the
// file had its stamp before the process began. Otherwise the digest may be that of an earlier content, for two
// changes in one tick of the clock give the same stamp.
func Settled(c Content) bool {
	if _, ok := c.(*loaded); ok {
		return true // it was checked, or is an error
	}
	if _, ok := c.(Checked); ok {
		return true
	}
	s, ok := c.(Stamped)
	return ok && (isImmutable(c) || s.Stamp().OlderThan(processStart))
}

// Checked is a Content that gives what has its entry's digest, when that is known, or cannot be opened.
type Checked interface {
	Content
	Checked()
}

func isImmutable(c Content) bool {
	h, ok := c.(HostFile)
	return ok && h.Immutable()
}

// remember notes the digest of a file that was read after a point in time, where somebody wants to know it.
func remember(c Content, read time.Time, sum digest.Digest) {
	f, ok := c.(*hostFile)
	if h, held := c.(*heldFile); held {
		f, ok = h.hostFile, true
	}
	if ok && f.tree.opt.Memory != nil {
		f.tree.opt.Memory.Note(f.stamp, read, sum)
	}
}

// ErrChanged marks a file of the user's that was written to while it was being read.
var ErrChanged = errors.New("file changed while it was being read: try again when nobody writes to it")

func (f *hostFile) HostPath() string { return filepath.Join(f.tree.root, f.path) }

func (f *hostFile) Immutable() bool { return f.tree.opt.Immutable }
