package layer

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DirWriter is the [Sink] that makes the overlay-native directory form of a layer: whiteouts are
// character devices 0:0, opaque directories carry trusted.overlay.opaque=y, or what it is in another [Flavor]. Files are cloned (FICLONE)
// where the filesystem can, copied in the kernel otherwise.
//
// The directory may belong to somebody who changes it meanwhile, as the root of a container that runs:
// no symbolic link in it is ever followed, and an object gets its attributes through a descriptor of the
// object, whatever has its name by then.
//
// Beyond what a Sink must do, a path may come again: a directory then gets the new attributes
// and keeps its entries, anything else is replaced. So tar streams can be written as they come.
//
// Every file gets an inode of its own, unless the entries make it a hard link: a process sees by
// inode numbers and counts of links which files are one.
type DirWriter struct {
	dir      *os.File
	flavor   Flavor
	records  recorder
	noClone  bool
	keepDirs bool
	onTop    bool
	anew     bool
	dirs     map[string]time.Time // modification times, set at the end
	size     int64

	parent   string // path of the directory that parentFD holds open
	parentFD int    // -1: none
	ownerFD  int    // directory in which new files belong to owner; -1: not known
	owner    Owner
	refused  map[Owner]bool // owners that the disk does not take
}

// NewDirWriter gives a sink that writes into the existing directory at root.
func NewDirWriter(root string) (*DirWriter, error) {
	dir, err := os.OpenFile(root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening layer directory: %w", err)
	}
	return &DirWriter{dir: dir, dirs: map[string]time.Time{}, parentFD: -1, ownerFD: -1}, nil
}

// SetFlavor says of which flavor the store is that the directory belongs to, and where records of what cannot have attributes
// are added ([Flavor.Records]); "" is nowhere.
func (w *DirWriter) SetFlavor(f Flavor, records string) { w.flavor, w.records.path = f, records }

// KeepDirs makes it an error to replace a directory by something else.
func (w *DirWriter) KeepDirs() { w.keepDirs = true }

// OnTop has the entries be applied to what the directory has, which is no layer but a root filesystem: a whiteout removes, and
// an opaque directory takes the place of what is there.
func (w *DirWriter) OnTop() { w.onTop = true }

// Anew has an opaque directory take the place of what is there, which may be from an earlier state of the same layer.
func (w *DirWriter) Anew() { w.anew = true }

// Size is the number of bytes of content that were written.
func (w *DirWriter) Size() int64 { return w.size }

// Add writes one entry; its parent must be there.
func (w *DirWriter) Add(e *Entry) error {
	if err := w.add(e); err != nil {
		return fmt.Errorf("writing %q: %w", e.Path, err)
	}
	return nil
}

func (w *DirWriter) add(e *Entry) error {
	if e.Path == "." {
		if !e.IsDir() {
			return errors.New("the root is no directory")
		}
		w.dirs["."] = e.ModTime
		return w.attributes(int(w.dir.Fd()), e)
	}
	parent, base := split(e.Path)
	if !IsName(base) {
		return errors.New("it is no path of something in the directory")
	}
	fd, err := w.open(parent)
	if err != nil {
		return err
	}
	if e.Below {
		_, err := w.replace(fd, base, e)
		if err == unix.ENOENT {
			return nil
		}
		return err
	}
	if e.Opaque && (w.onTop || w.anew) || e.Whiteout && w.onTop {
		if fd != w.parentFD {
			w.closeParent() // it may lie in what goes away
		}
		if err := removeAt(fd, base); err != nil || e.Whiteout {
			return err
		}
	}
	err = w.create(fd, base, e)
	if err == unix.EEXIST {
		var done bool
		if done, err = w.replace(fd, base, e); err == nil && !done {
			err = w.create(fd, base, e)
		}
	}
	if err != nil || e.Whiteout || e.Hardlink || e.IsRegular() {
		return err // a regular file has its attributes since it was made
	}
	return w.finish(fd, base, e)
}

// finish gives attributes to an object that is no regular file. A directory is kept open, as it comes before
// what is in it.
func (w *DirWriter) finish(fd int, base string, e *Entry) error {
	flags := unix.O_PATH
	if e.IsDir() {
		flags = unix.O_RDONLY | unix.O_DIRECTORY
	}
	obj, err := unix.Openat(fd, base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = w.attributes(obj, e)
	if err != nil || !e.IsDir() {
		unix.Close(obj)
		return err
	}
	w.dirs[e.Path] = e.ModTime
	w.closeParent()
	w.parent, w.parentFD = e.Path, obj
	return nil
}

// open gives the descriptor of a directory in the layer, which stays open until the next call.
func (w *DirWriter) open(dir string) (int, error) {
	if dir == "." {
		return int(w.dir.Fd()), nil
	}
	if w.parentFD >= 0 && w.parent == dir {
		return w.parentFD, nil
	}
	fd, err := openBeneath(int(w.dir.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("opening parent directory: %w", err)
	}
	w.closeParent()
	w.parent, w.parentFD = dir, fd
	return fd, nil
}

func (w *DirWriter) closeParent() {
	if w.parentFD >= 0 {
		unix.Close(w.parentFD)
	}
	w.parentFD, w.ownerFD = -1, -1
}

// replace makes room for an entry whose name is taken. done: both are directories, and there is nothing to
// make.
func (w *DirWriter) replace(fd int, base string, e *Entry) (done bool, _ error) {
	err := unix.Unlinkat(fd, base, 0)
	switch {
	case err != unix.EISDIR:
		return false, absent(err)
	case e.IsDir():
		return true, nil
	case w.keepDirs:
		return false, errors.New("cannot overwrite directory with non-directory")
	}
	if fd != w.parentFD {
		w.closeParent() // it may lie in what goes away
	}
	return false, removeAt(fd, base)
}

// create makes the object; attributes of anything but a regular file are left to the caller.
func (w *DirWriter) create(fd int, base string, e *Entry) error {
	switch {
	case e.Whiteout:
		err := unix.Mknodat(fd, base, unix.S_IFCHR, 0)
		if err == unix.EPERM {
			err = w.whiteoutFile(fd, base)
		}
		return err
	case e.Hardlink:
		return w.link(fd, base, e)
	}
	switch e.Type() {
	case unix.S_IFDIR:
		return unix.Mkdirat(fd, base, 0o700) // until it has its attributes
	case unix.S_IFREG:
		return w.file(fd, base, e)
	case unix.S_IFLNK:
		return unix.Symlinkat(e.Link, fd, base)
	case unix.S_IFCHR, unix.S_IFBLK:
		if isWhiteout(e) {
			return errors.New("a character device 0:0 cannot be stored in a layer")
		}
		return w.device(fd, base, e)
	case unix.S_IFIFO, unix.S_IFSOCK:
		return unix.Mknodat(fd, base, e.Type()|0o600, 0)
	}
	return fmt.Errorf("unknown file type %#o", e.Type())
}

// whiteoutFile makes a whiteout that is a file. The mark of its directory has overlayfs look for such files there.
func (w *DirWriter) whiteoutFile(fd int, base string) error {
	f, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	err = unix.Fsetxattr(f, w.flavor.whiteout(), []byte("y"), 0)
	if cerr := unix.Close(f); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Fsetxattr(fd, w.flavor.opaque(), []byte("x"), unix.XATTR_CREATE)
		if err == unix.EEXIST {
			return nil
		}
	}
	return err
}

func (w *DirWriter) link(fd int, base string, e *Entry) error {
	if e.Link == e.Path {
		return nil
	}
	dir, target := split(e.Link)
	from, err := openBeneath(int(w.dir.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("linking to %q: %w", e.Link, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, target, fd, base, 0); err != nil {
		if err == unix.EEXIST {
			return err
		}
		return fmt.Errorf("linking to %q: %w", e.Link, err)
	}
	w.records.link(e)
	return nil
}

func (w *DirWriter) file(fd int, base string, e *Entry) (err error) {
	f, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := unix.Close(f); err == nil {
			err = cerr
		}
	}()
	if e.Size > 0 {
		if err := w.content(f, e); err != nil {
			return err
		}
	}
	own, err := w.newOwner(fd, f)
	if err != nil {
		return err
	}
	lost, err := w.chown(f, e, own)
	if err != nil {
		return err
	}
	perm := w.perm(e, &lost)
	if err := unix.Fchmod(f, perm); err != nil {
		return fmt.Errorf("setting mode: %w", err)
	}
	if err := w.setXattrs(f, e, &lost, func(k string, v []byte) error { return unix.Fsetxattr(f, k, v, 0) }); err != nil {
		return err
	}
	return setTimesOf(f, e.ModTime)
}

// newOwner tells whom a new file in a directory belongs to. All files there do, whatever set-group-ID
// bits and mount options make of groups, so that one is asked for all.
func (w *DirWriter) newOwner(dir, file int) (Owner, error) {
	if w.ownerFD != dir {
		var st unix.Stat_t
		if err := unix.Fstat(file, &st); err != nil {
			return Owner{}, err
		}
		w.ownerFD, w.owner = dir, Owner{st.Uid, st.Gid}
	}
	return w.owner, nil
}

// attributes sets owner, mode, extended attributes and times of an open object that is no regular file.
// Chown comes first: it clears set-ID bits and capabilities.
func (w *DirWriter) attributes(fd int, e *Entry) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != e.Type() && !w.standsFor(&st, e) {
		return ErrChanged // by somebody who puts another object in its place
	}
	if e.IsDir() {
		w.ownerFD = -1 // it may be that directory
	}
	lost, err := w.chown(fd, e, Owner{st.Uid, st.Gid})
	if err != nil {
		return err
	}
	lost.device = st.Mode&unix.S_IFMT != e.Type()
	// What is no directory has a descriptor that can only be named: chmod and setxattr reach it by this name.
	name := procPath(fd, "")
	if !e.IsSymlink() {
		if err := chmodOf(fd, w.perm(e, &lost)); err != nil {
			return fmt.Errorf("setting mode: %w", err)
		}
	}
	if err := w.setXattrs(fd, e, &lost, func(k string, v []byte) error { return unix.Setxattr(name, k, v, 0) }); err != nil {
		return err
	}
	if !e.IsDir() {
		return setTimes(fd, e.ModTime)
	}
	if e.Opaque && !w.onTop {
		if err := unix.Fsetxattr(fd, w.flavor.opaque(), []byte("y"), 0); err != nil {
			return fmt.Errorf("marking directory opaque: %w", err)
		}
	}
	return nil // times are set at the end
}

// setTimesOf is futimens(3): utimensat(2) with no path.
func setTimesOf(fd int, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("setting times: %w", err)
	}
	times := [2]unix.Timespec{ts, ts}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("setting times: %w", errno)
	}
	return nil
}

// setTimes is setTimesOf for a descriptor that was opened with O_PATH.
func setTimes(fd int, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("setting times: %w", err)
	}
	times := []unix.Timespec{ts, ts}
	if err = unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH); err == unix.EINVAL { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd, ""), times, 0)
	}
	if err != nil {
		return fmt.Errorf("setting times: %w", err)
	}
	return nil
}

// Close sets the times of the directories, which change as long as entries are written to them.
func (w *DirWriter) Close() error {
	w.closeParent()
	var first error
	for name, t := range w.dirs {
		fd, err := openBeneath(int(w.dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if isMissing(err) {
			continue // replaced by something else later on
		}
		if err == nil {
			err = setTimesOf(fd, t)
			unix.Close(fd)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("finishing directory %q: %w", name, err)
		}
	}
	if err := w.dir.Close(); first == nil {
		first = err
	}
	if err := w.records.close(); first == nil {
		first = err
	}
	return first
}

func sortedKeys(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
