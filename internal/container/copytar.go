package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Import unpacks a tar stream, which may be hostile, into the directory dst of a container. Symbolic
// links on the way to an entry, of the container as of the stream, are followed inside of its root, as a
// process in the container would.
func (m *Manager) Import(ctx context.Context, c store.Container, r io.Reader, dst string, opts CopyOptions) error {
	return m.writeInto(ctx, c, dst, func(in *inbound) error {
		if !in.dest.isDir {
			return &noDirectoryError{fmt.Sprintf("destination \"%s:%s\" must be a directory", c.Name, dst), in.dest.exists}
		}
		b := &below{inbound: in, dir: in.path, root: !opts.Archive, places: map[string]string{".": in.path}, made: map[string]bool{}}
		return layer.ReadArchive(r, layer.TarOptions{}, b)
	})
}

// below puts the entries of a tar stream under a directory.
type below struct {
	*inbound
	dir    string
	root   bool              // everything belongs to root
	places map[string]string // of directories of the stream in the container
	made   map[string]bool   // directories of the container that came with the stream, or because of it
}

// Add writes one entry of the stream.
func (b *below) Add(e *layer.Entry) (err error) {
	if e.Path == "." {
		return nil // the destination has attributes of its own
	}
	if e.Path, err = b.place(e.Path); err != nil {
		return err
	}
	if e.Hardlink {
		if e.Link, err = b.place(e.Link); err != nil {
			return err
		}
	}
	if b.root {
		e.UID, e.GID = 0, 0
	}
	if e.IsDir() {
		b.made[e.Path] = true
	}
	if e.IsSymlink() { // it may take the place of one that leads elsewhere
		clear(b.places)
		b.places["."] = b.dir
	}
	return b.inbound.Add(e)
}

// place is the path in the container of a path in the stream. Directories above it that the stream
// does not mention and the container does not have are made.
func (b *below) place(name string) (string, error) {
	dir := path.Dir(name)
	to, ok := b.places[dir]
	if !ok {
		var err error
		if to, err = layer.Resolve(b.tree, path.Join(b.dir, dir), true); err != nil {
			return "", err
		}
		if err := b.makeDirs(to); err != nil {
			return "", err
		}
		b.places[dir] = to
	}
	return path.Join(to, path.Base(name)), nil
}

func (b *below) makeDirs(dir string) error {
	at := ""
	for _, part := range strings.Split(dir, "/") {
		at = path.Join(at, part)
		if b.made[at] || at == "." {
			continue
		}
		_, err := b.tree.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			b.made[at] = true
			err = b.inbound.Add(&layer.Entry{Path: at, Mode: unix.S_IFDIR | 0o755, ModTime: time.Now()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
