package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// CopyFrom copies the file or directory at src in a container to the host path dst, by the rules
// of docker cp.
func (m *Manager) CopyFrom(ctx context.Context, c store.Container, src, dst string, opts CopyOptions) (n Copied, err error) {
	tree, err := m.rootTree(ctx, c)
	if err != nil {
		return n, fmt.Errorf("copying from container %s: %w", c.Name, err)
	}
	s, err := openSource(tree, src, c.Name, opts.FollowLink)
	if err != nil {
		return n, fmt.Errorf("copying from container: %w", err)
	}
	n, err = copyToHost(ctx, s, dst, opts)
	if err != nil {
		return n, fmt.Errorf("copying from container: %w", err)
	}
	return n, nil
}

func copyToHost(ctx context.Context, s *source, dst string, opts CopyOptions) (Copied, error) {
	d, root, err := hostDestination(dst)
	if err != nil {
		return Copied{}, err
	}
	inside, err := s.inside(d)
	if err != nil {
		return Copied{}, err
	}
	target := s.target()
	if !inside {
		root, target = filepath.Dir(root), filepath.Base(root)
	}
	w, err := layer.NewDirWriter(root)
	if err != nil {
		return Copied{}, err
	}
	w.KeepDirs()
	count := &counter{Sink: &hostSink{DirWriter: w, root: root, ctx: ctx, keepOwner: opts.Archive}}
	err = s.write(target, count)
	if s.entry.IsDir() {
		count.Content = count.Transfer // all that Docker's client knows
	}
	return count.Copied, errors.Join(err, w.Close())
}

// hostDestination looks at a path of the host. real is it without symbolic links, if it exists.
func hostDestination(name string) (d destination, real string, err error) {
	d = destination{name: name, slash: endsInSlash(name)}
	if real, err = filepath.Abs(name); err != nil {
		return d, "", err
	}
	fi, err := os.Stat(real)
	switch {
	case err == nil && !fi.IsDir() && !fi.Mode().IsRegular():
		return d, "", fmt.Errorf("invalid output path: %q must be a directory or a regular file", name)
	case err == nil:
		d.exists, d.isDir = true, fi.IsDir()
		real, err = filepath.EvalSymlinks(real)
		return d, real, err
	case !errors.Is(err, fs.ErrNotExist):
		return d, "", err
	}
	fi, err = os.Stat(filepath.Dir(real))
	d.parentIsDir = err == nil && fi.IsDir()
	d.noParent = fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(filepath.Clean(name)))
	return d, real, nil
}

// hostSink writes to a directory of the host. It does not use what only layers have, never puts
// a directory in the place of something else, and gives files to the user who runs it.
type hostSink struct {
	*layer.DirWriter
	root      string
	ctx       context.Context
	keepOwner bool
}

func (h *hostSink) Add(e *layer.Entry) error {
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	name := filepath.Join(h.root, e.Path)
	if fi, err := os.Lstat(name); err == nil {
		if err := overwrite(e, name, fi.IsDir()); err != nil {
			return err
		}
		if t := fi.Mode().Type(); t != 0 && t&(fs.ModeDir|fs.ModeSymlink) == 0 {
			return fmt.Errorf("cannot overwrite %s: it is neither a file nor a directory", name)
		}
	}
	e.Xattrs, e.Opaque = nil, false
	if !h.keepOwner {
		e.UID, e.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	return h.DirWriter.Add(e)
}

// Export writes the file or directory at src in a container to w as a tar stream, below its own
// name, as docker cp does for "-".
func (m *Manager) Export(ctx context.Context, c store.Container, src string, w io.Writer, opts CopyOptions) error {
	tree, err := m.rootTree(ctx, c)
	if err != nil {
		return fmt.Errorf("copying from container %s: %w", c.Name, err)
	}
	s, err := openSource(tree, src, c.Name, opts.FollowLink)
	if err != nil {
		return fmt.Errorf("copying from container: %w", err)
	}
	tw := layer.NewTarWriter(w)
	err = s.write(s.target(), tw)
	if err := errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("copying from container: %w", err)
	}
	return nil
}
