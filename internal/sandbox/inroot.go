package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// What is in a root filesystem, or in a mount, may have been made by a process, and another process
// that was given a descriptor of it may still change it. So a path in it is used once: what it leads to
// is opened, and everything else happens through the descriptor.

// opened is what a path led to: a descriptor, which an [os.File] would be for some system calls more.
type opened struct {
	fd   int
	name string
}

func (o *opened) Close() error {
	return os.NewSyscallError("close", unix.Close(o.fd))
}

func (o *opened) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(o.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, &os.PathError{Op: "read", Path: o.name, Err: err}
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// file is another descriptor of the same.
func (o *opened) file() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), o.name), nil
}

// openFile opens a file of slipway's own, or of the host.
func openFile(path string, flags int) (*opened, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &opened{fd, path}, nil
}

// writeFile makes a file with a short text, or gives one a new text.
func writeFile(path, text string) error {
	f, err := openFile(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	if text != "" {
		err = f.write(text)
	}
	return errors.Join(err, f.Close())
}

// write writes what is short, to a file in which what one call writes is one thing.
func (o *opened) write(text string) error {
	for {
		n, err := unix.Write(o.fd, []byte(text))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n < len(text):
			err = io.ErrShortWrite
		}
		if err != nil {
			return &os.PathError{Op: "write", Path: o.name, Err: err}
		}
		return nil
	}
}

// openRoot opens the top directory of a filesystem for the functions below.
func openRoot(path string) (*opened, error) {
	o, err := openFile(path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("opening a root filesystem: %w", err)
	}
	return o, nil
}

// openInRoot opens what a path is inside of root, without any effect on it.
func openInRoot(root *opened, path string) (*opened, error) {
	return openat2(root, path, unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// openResolved opens what resolveInRoot gave. What has become a symbolic link since then is an error.
func openResolved(root *opened, rel string, flags int) (*opened, error) {
	if rel == "" {
		rel = "."
	}
	resolve := uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS)
	return openat2(root, rel, unix.OpenHow{Flags: uint64(flags | unix.O_NOFOLLOW), Resolve: resolve})
}

func openat2(root *opened, path string, how unix.OpenHow) (*opened, error) {
	how.Flags |= unix.O_CLOEXEC
	fd, err := unix.Openat2(root.fd, path, &how)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6
		return openOlder(root, path, how)
	}
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return &opened{fd, path}, nil
}

// openOlder opens a path on a kernel without openat2(2).
func openOlder(root *opened, path string, how unix.OpenHow) (*opened, error) {
	var st unix.Stat_t
	if how.Resolve&unix.RESOLVE_NO_SYMLINKS != 0 && unix.Fstatat(root.fd, path, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
	}
	flags := int(how.Flags)
	o, err := withPathrs(root, func(root *os.File) (*os.File, error) { return pathrs.OpenatInRoot(root, path) })
	if err != nil || flags&unix.O_PATH != 0 {
		return o, err
	}
	defer o.Close()
	return reopen(o, flags&^unix.O_NOFOLLOW)
}

// withPathrs has the library open something.
func withPathrs(root *opened, open func(*os.File) (*os.File, error)) (*opened, error) {
	r, err := root.file()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := open(r)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &opened{fd, f.Name()}, nil
}

// makeDirs makes a directory inside of root and those above it that are missing.
func makeDirs(root *opened, path string) (*opened, error) {
	return withPathrs(root, func(root *os.File) (*os.File, error) { return pathrs.MkdirAllHandle(root, path, 0o755) })
}

// reopen opens what an O_PATH descriptor stands for.
func reopen(o *opened, flags int) (*opened, error) {
	return openFile("/proc/self/fd/"+strconv.Itoa(o.fd), flags)
}

// resolveInRoot is the path of what path is inside of root, or would be, without symbolic links and
// relative to root; "" is the root itself. It was so at some time: openResolved has the last word.
func resolveInRoot(root *opened, path string) (rel string, err error) {
	full, err := securejoin.SecureJoin(root.name, path)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(strings.TrimPrefix(full, root.name), "/"), nil
}

// makeInRoot makes a file or directory whose parent directory is there.
func makeInRoot(root *opened, path string, file bool) (*opened, error) {
	dir, err := openInRoot(root, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if file {
		return makeFileAt(dir, filepath.Base(path))
	}
	return makeDirAt(dir, filepath.Base(path))
}

// makeDirAt makes an empty directory in dir.
func makeDirAt(dir *opened, name string) (*opened, error) {
	if err := unix.Mkdirat(dir.fd, name, 0o755); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &opened{fd, name}, nil
}

// makeFileAt makes an empty file in dir.
func makeFileAt(dir *opened, name string) (*opened, error) {
	fd, err := unix.Openat(dir.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &opened{fd, name}, nil
}
