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
	"github.com/slipway-build/slipway/internal/sandbox"
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
		owner, err := ownerFor(c, in.tree, opts)
		if err != nil {
			return err
		}
		b := &below{inbound: in, dir: in.path, owner: owner, places: map[string]string{".": in.path}, made: map[string]bool{}}
		return layer.ReadArchive(r, layer.TarOptions{}, b)
	})
}

// ownerFor is whose files are to be that are copied into a container; nil: whose they are.
func ownerFor(c store.Container, tree layer.Tree, opts CopyOptions) (*sandbox.Owner, error) {
	if opts.ToUser {
		config, err := ReadConfig(c)
		if err != nil {
			return nil, err
		}
		if config.User != "" {
			u, err := findUser(tree, config.User)
			if err != nil {
				return nil, err
			}
			return &sandbox.Owner{UID: u.Uid, GID: u.Gid}, nil
		}
	}
	if opts.Archive {
		return nil, nil
	}
	return &sandbox.Owner{}, nil
}

// below puts the entries of a tar stream under a directory.
type below struct {
	*inbound
	dir    string
	owner  *sandbox.Owner    // whose everything is; nil: as the stream has it
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
	if b.owner != nil {
		e.UID, e.GID = uint32(b.owner.UID), uint32(b.owner.GID)
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
