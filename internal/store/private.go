package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/isolation"
)

// dirs are the directories that every store has.
var dirs = []string{"blobs/sha256", "layers", "builds", "caches", "containers", "tmp", "used"}

// The store is its owner's alone: there are setuid programs of images in it, and what was passed to
// builds and containers. All of it is below one directory that lets nobody else in, so what is below
// has the modes that it needs; files that hold secrets are the owner's by themselves as well.

// makePrivate makes the store's directory where it is missing, and makes it the owner's alone.
func (s *Store) makePrivate() error {
	_, err := os.Lstat(filepath.Join(s.root, "meta.db"))
	missing := errors.Is(err, fs.ErrNotExist)
	if missing {
		if err := errors.Join(ownPath(s.root), os.MkdirAll(filepath.Dir(s.root), 0o755)); err != nil {
			return err
		}
		err := os.Mkdir(s.root, 0o700)
		if errors.Is(err, fs.ErrExist) {
			err = noOthers(s.root)
		}
		if err != nil {
			return err
		}
	}
	if err := ownPath(s.root); err != nil {
		return err
	}
	dir, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := private(dir); err != nil {
		return err
	}
	if missing {
		return s.makeDirs()
	}
	return nil
}

// noOthers refuses a directory with something else in it than a store that is being made: it is somebody's by
// mistake, and would be taken from everybody.
func noOthers(root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		ours := slices.Contains(dirs, name) || slices.Contains(dirs, name+"/sha256") || strings.HasPrefix(name, "meta.db") ||
			slices.Contains([]string{"oci-layout", "index.json", "contexts", "events", "events.1", "volumes", "networks", "gc", "grown", "init", "last", "mask", "reserve", "run", "seccomp", "spare", "lost+found"}, name)
		if !ours {
			return fmt.Errorf("it is no store, and there is something else in it (%s): use another --root", name)
		}
	}
	return nil
}

// private takes a store's directory and what is in it from everybody but the owner. The directory itself
// comes last: one that lets nobody in has nothing in it that does, which counts for those who came in before.
func private(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return unix.ENOTDIR
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, not to user %d, who runs this: use another --root", st.Uid, os.Geteuid())
	case st.Mode&0o077 == 0:
		return nil
	}
	if err := take(int(dir.Fd()), st.Mode&0o755); err != nil { // nobody adds to what is looked at next
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := closeEntry(int(dir.Fd()), e.Name()); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	if err := take(int(dir.Fd()), st.Mode&0o700); err != nil {
		return err
	}
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	var where unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &where); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Mode&0o077 != 0 && where.Flags&unix.ST_RDONLY == 0 {
		return errors.New("its filesystem does not keep permissions (chmod 700 has no effect), so other users could read the store: use another --root")
	}
	return nil
}

// take changes the mode of a file that is open. A filesystem that is mounted read-only stays as it is.
func take(fd int, mode uint32) error {
	if err := unix.Fchmod(fd, mode); err != nil && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("taking it from other users: %w: use another --root", os.NewSyscallError("fchmod", err))
	}
	return nil
}

// closeEntry takes a file or directory of the store's from everybody but the owner.
func closeEntry(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	kind := st.Mode & unix.S_IFMT
	switch {
	case errors.Is(err, unix.ENOENT): // of a process that works beside this one
		return nil
	case err != nil:
		return os.NewSyscallError("fstatat", err)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d, not to user %d, who runs this: use another --root", st.Uid, os.Geteuid())
	case st.Mode&0o077 == 0, kind != unix.S_IFDIR && kind != unix.S_IFREG:
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	return take(fd, st.Mode&0o700)
}

// maxLinks is how many symbolic links a path may go through, as in the kernel.
const maxLinks = 40

// CheckPath reports an error when somebody else can make the path of a store lead elsewhere. Opening the store does that too; but who enters a
// user namespace sees no difference there any more between those who are outside of it.
func CheckPath(path string) error {
	abs, err := filepath.Abs(path)
	if err == nil {
		err = ownPath(abs)
	}
	if err != nil {
		return fmt.Errorf("opening store %s: %w", path, err)
	}
	return nil
}

// ownPath reports an error when somebody else can make a path lead elsewhere: a store is used by its
// path. What is checked first keeps others from changing what is checked next.
func ownPath(path string) error {
	trusted, links := isolation.Trusted(), 0
	at, rest := "/", parts(path)
	for {
		fi, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the rest is to be made
		}
		if err != nil {
			return err
		}
		// Of the store itself more is wanted. Who may change what is in / has all of the system: nothing that is checked here keeps them from
		// anything. In a container it may be the user who the image is for.
		store := len(rest) == 0 && fi.IsDir()
		if err := check(trusted, at, fi); err != nil && at != "/" && !store {
			return err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(at)
			if links++; err == nil && links > maxLinks {
				err = &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
			}
			if err != nil {
				return err
			}
			rest = append(parts(to), rest...)
			if at = filepath.Dir(at); filepath.IsAbs(to) {
				at = "/"
			}
		}
		if len(rest) == 0 {
			return nil
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:] // ".." too: at is no link
	}
}

func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" })
}

// podVolume reports whether a path is that of a volume of the container that this process is in. Whoever else writes to it is in that
// container, or in the same pod: Kubernetes makes an emptyDir for everybody there, with mode 0777, or for a group of them.
func podVolume(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 && isolation.Container() != ""
}

// check reports an error when others may change what is in a directory, or where a link leads.
func check(t isolation.Trust, path string, fi fs.FileInfo) error {
	st := fi.Sys().(*syscall.Stat_t)
	if !t.User(st.Uid) {
		return fmt.Errorf("%s belongs to user %d, who could put something else in the store's place: use another --root", path, st.Uid)
	}
	if !fi.IsDir() || fi.Mode()&fs.ModeSticky != 0 { // who did not make it cannot replace it
		return nil
	}
	if st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && !t.Group(st.Gid) {
		if podVolume(path) {
			return nil
		}
		return fmt.Errorf("other users may write to %s (its mode is %04o) and put something else in the store's place: "+
			"use another --root, or take that away with chmod go-w", path, st.Mode&0o7777)
	}
	return nil
}
