package sandbox

import (
	"errors"
	"fmt"
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

// openRoot opens the top directory of a filesystem for the functions below.
func openRoot(path string) (*os.File, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a root filesystem: %w", err)
	}
	return f, nil
}

// openInRoot opens what a path is inside of root, without any effect on it.
func openInRoot(root *os.File, path string) (*os.File, error) {
	return openat2(root, path, unix.OpenHow{Flags: unix.O_PATH, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// openResolved opens what resolveInRoot gave. What has become a symbolic link since then is an error.
func openResolved(root *os.File, rel string, flags int) (*os.File, error) {
	if rel == "" {
		rel = "."
	}
	resolve := uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS)
	return openat2(root, rel, unix.OpenHow{Flags: uint64(flags | unix.O_NOFOLLOW), Resolve: resolve})
}

func openat2(root *os.File, path string, how unix.OpenHow) (*os.File, error) {
	how.Flags |= unix.O_CLOEXEC
	fd, err := unix.Openat2(int(root.Fd()), path, &how)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6
		return openOlder(root, path, int(how.Flags))
	}
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openOlder opens a path on a kernel without openat2(2).
func openOlder(root *os.File, path string, flags int) (*os.File, error) {
	f, err := pathrs.OpenatInRoot(root, path)
	if err != nil || flags&unix.O_PATH != 0 {
		return f, err
	}
	defer f.Close()
	return reopen(f, flags&^unix.O_NOFOLLOW)
}

// reopen opens what an O_PATH descriptor stands for.
func reopen(f *os.File, flags int) (*os.File, error) {
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), flags|unix.O_CLOEXEC, 0)
}

// resolveInRoot is the path of what path is inside of root, or would be, without symbolic links and
// relative to root; "" is the root itself. It was so at some time: openResolved has the last word.
func resolveInRoot(root *os.File, path string) (rel string, err error) {
	full, err := securejoin.SecureJoin(root.Name(), path)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(strings.TrimPrefix(full, root.Name()), "/"), nil
}

// makeInRoot makes a file or directory whose parent directory is there.
func makeInRoot(root *os.File, path string, file bool) (*os.File, error) {
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
func makeDirAt(dir *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o755); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// makeFileAt makes an empty file in dir.
func makeFileAt(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
