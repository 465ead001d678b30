package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Errors of paths in a container.
var (
	// ErrNoFile marks a path that a container does not have.
	ErrNoFile = errors.New("no such file in the container")
	// ErrNoDirectory marks one that is no directory, where it has to be one.
	ErrNoDirectory = errors.New("not a directory in the container")
)

// noDirectoryError is the error of a destination that is no directory.
type noDirectoryError struct {
	text   string
	exists bool
}

func (e *noDirectoryError) Error() string { return e.text }

func (e *noDirectoryError) Is(target error) bool {
	return e.exists && target == ErrNoDirectory || !e.exists && target == ErrNoFile
}

// Archive is a file or a directory of a container, with all below it.
type Archive struct {
	Name       string // the last part of its path
	Size       int64  // bytes
	Mode       os.FileMode
	ModTime    time.Time
	LinkTarget string // of a symbolic link: where it leads in the container, from its root

	source *source
	below  string // what all names in the archive begin with, which has the directory's contents: "./", or "/"
}

// OpenArchive finds the object at a path in a container. A symbolic link at its end is the object, unless the path ends in a slash.
func (m *Manager) OpenArchive(ctx context.Context, c store.Container, name string) (*Archive, error) {
	tree, err := m.rootTree(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("copying from container %s: %w", c.Name, err)
	}
	s, err := openSource(tree, name, c.Name, false)
	if err != nil {
		return nil, fmt.Errorf("copying from container: %w", err)
	}
	a := &Archive{Name: path.Base(path.Clean("/" + name)), Size: s.entry.Size, Mode: fileMode(s.entry.Mode), ModTime: s.entry.ModTime, source: s}
	if s.base == "" {
		if a.below = "./"; name != "" && strings.Trim(name, "/") == "" {
			a.below = "/"
		}
	}
	if s.entry.IsSymlink() {
		target, err := layer.Resolve(tree, name, true)
		if err != nil {
			return nil, fmt.Errorf("copying from container: %w", err)
		}
		a.LinkTarget, a.Size = path.Join("/", target), int64(len(s.entry.Link))
	}
	return a, nil
}

// Write writes it as a tar stream, below its own name. Clients replace the beginnings of names by others, for which all of them have to be there.
func (a *Archive) Write(ctx context.Context, w io.Writer) error {
	tw := layer.NewTarWriter(w)
	var err error
	if a.below != "" {
		err = tw.Below(a.below, a.source.entry)
	}
	if err == nil {
		err = a.source.write(a.source.target(), tw)
	}
	if err = errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("copying from container: %w", err)
	}
	return ctx.Err()
}

// fileMode is a mode of the kernel's as Go has it.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for _, bit := range []struct {
		mask, value uint32
		is          os.FileMode
	}{
		{unix.S_IFMT, unix.S_IFDIR, os.ModeDir}, {unix.S_IFMT, unix.S_IFLNK, os.ModeSymlink}, {unix.S_IFMT, unix.S_IFIFO, os.ModeNamedPipe}, {unix.S_IFMT, unix.S_IFSOCK, os.ModeSocket},
		{unix.S_IFMT, unix.S_IFBLK, os.ModeDevice}, {unix.S_IFMT, unix.S_IFCHR, os.ModeDevice | os.ModeCharDevice},
		{unix.S_ISUID, unix.S_ISUID, os.ModeSetuid}, {unix.S_ISGID, unix.S_ISGID, os.ModeSetgid}, {unix.S_ISVTX, unix.S_ISVTX, os.ModeSticky},
	} {
		if mode&bit.mask == bit.value {
			m |= bit.is
		}
	}
	return m
}
