package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// CopyTo copies the host's file or directory src to dst in a container, by the rules of docker
// cp. A running container gets the files through the root that it sees.
func (m *Manager) CopyTo(ctx context.Context, c store.Container, src, dst string, opts CopyOptions) (n Copied, err error) {
	abs, err := filepath.Abs(src)
	if err != nil {
		return n, fmt.Errorf("copying to container: %w", err)
	}
	dir, base := filepath.Split(abs)
	if endsInSlash(src) || base == "" {
		dir, base = abs, "."
	}
	dopt := layer.DirOptions{}
	if !opts.Archive {
		dopt.Owner = &layer.Owner{}
	}
	s, err := openHostSource(dir, base, src, dopt, opts.FollowLink)
	if err != nil {
		return n, fmt.Errorf("copying to container: %w", err)
	}
	err = m.writeInto(ctx, c, dst, func(in *inbound) error {
		inside, err := s.inside(in.dest)
		if err != nil {
			return err
		}
		target := in.path
		if inside {
			target = path.Join(in.path, s.target())
		}
		count := &counter{Sink: in}
		err = s.write(target, count)
		n = count.Copied
		return err
	})
	return n, err
}

// openHostSource finds the host's side of a copy. Symbolic links on the way to it have their
// meaning of the host; base is followed only with follow.
func openHostSource(dir, base, name string, opt layer.DirOptions, follow bool) (*source, error) {
	full := filepath.Join(dir, base)
	own := filepath.Base(full)
	if follow {
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			return nil, err
		}
		dir, base = filepath.Split(real)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("no such file or directory: %s", name)
	}
	t := layer.OpenDir(dir, opt)
	e, err := t.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such file or directory: %s", name)
	}
	if err != nil {
		return nil, err
	}
	s := &source{tree: t, entry: e, base: own}
	if path.Base(name) == "." || path.Base(name) == ".." || filepath.Clean(name) == "/" ||
		len(name) > 1 && name[len(name)-2:] == "/." {
		s.base = ""
	}
	return s, nil
}

// inbound is the Sink of a container's writable layer: what is written there lies over the
// layers of the image.
type inbound struct {
	*layer.DirWriter
	ctx   context.Context
	upper string
	tree  layer.Tree // what the container has
	live  bool       // upper is the root that a running container sees, not its writable layer
	ids   idMap      // of its user namespace, if live
	// mounted is the tree of a container that does not run, whose mounts get what is written there.
	mounted *mountedTree // without mounts where only the layers are written to
	store   *store.Store

	path string // the destination without symbolic links; it may be missing
	dest destination
}

// writeInto calls fn with a sink for the container's root, and with what is known of dst. The root is
// the writable layer over those of the image, or that of the running process: nobody may write below
// a mounted overlay.
func (m *Manager) writeInto(ctx context.Context, c store.Container, dst string, fn func(*inbound) error) error {
	in := &inbound{ctx: ctx, store: m.Store, upper: m.upper(c.ID), dest: destination{name: c.Name + ":" + dst, slash: endsInSlash(dst)}}
	in.dest.noParent = notInContainer(path.Dir(path.Clean(dst)), c.Name)
	release, err := m.open(ctx, c, in)
	if err != nil {
		return fmt.Errorf("copying to container %s: %w", c.Name, err)
	}
	defer release()
	if err := in.resolve(dst); err != nil {
		return fmt.Errorf("copying to container: %w", err)
	}
	writer := m.Store.DirWriter
	if in.live {
		writer = m.Store.MountWriter // nothing lies beside it
	}
	if in.DirWriter, err = writer(in.upper); err != nil {
		return fmt.Errorf("copying to container: %w", err)
	}
	in.DirWriter.KeepDirs()
	err = fn(in)
	if err = errors.Join(err, in.DirWriter.Close()); in.mounted != nil {
		err = errors.Join(err, in.mounted.close())
	}
	if err != nil {
		return fmt.Errorf("copying to container: %w", err)
	}
	return nil
}

// open decides where inbound writes. A container that is being started or ended is waited for.
func (m *Manager) open(ctx context.Context, c store.Container, in *inbound) (release func() error, err error) {
	for {
		release, err = m.lockToCopy(ctx, c.ID)
		if err == nil {
			tree, err := m.tree(ctx, c)
			if err == nil {
				in.mounted, err = m.withMounts(tree, c)
			}
			if err != nil {
				return nil, errors.Join(err, release())
			}
			in.tree = in.mounted
			return release, nil
		}
		if !errors.Is(err, ErrRunning) {
			return nil, err
		}
		root, ids, err := m.openRoot(ctx, c)
		if err != nil {
			return nil, err
		}
		if root != nil {
			in.live, in.upper, in.ids = true, pathOf(root), ids
			in.tree = &seenTree{m.Store.OpenDir(in.upper, layer.DirOptions{Live: true}), ids}
			return root.Close, nil
		}
	}
}

func (in *inbound) resolve(dst string) (err error) {
	if in.path, err = layer.Resolve(in.tree, dst, true); err != nil {
		return err
	}
	e, err := in.tree.Lstat(in.path)
	switch {
	case err == nil:
		in.dest.exists, in.dest.isDir = true, e.IsDir()
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent, err := in.tree.Lstat(path.Dir(in.path))
	in.dest.parentIsDir = err == nil && parent.IsDir()
	return nil
}

// Close does nothing: writeInto closes.
func (in *inbound) Close() error { return nil }

// Add writes one entry over what the container has.
func (in *inbound) Add(e *layer.Entry) error {
	if in.ctx.Err() != nil {
		return context.Cause(in.ctx)
	}
	old, err := in.tree.Lstat(e.Path)
	if err == nil {
		if err := overwrite(e, "/"+e.Path, old.IsDir()); err != nil {
			return err
		}
	}
	if in.live {
		if e, err = in.ids.written(e); err != nil {
			return err
		}
		return in.DirWriter.Add(e)
	}
	if mt, inside := in.mounted.find(e.Path); mt != nil {
		return in.mounted.add(in.store, mt, inside, e)
	}
	if mt, _ := in.mounted.find(e.Link); e.Hardlink && mt != nil {
		return crossLink(e)
	}
	if err := in.parents(path.Dir(e.Path)); err != nil {
		return err
	}
	// A directory over a whiteout must not show what the whiteout hid.
	if e.IsDir() && isWhiteout(filepath.Join(in.upper, e.Path)) {
		e.Opaque = true
	}
	return in.DirWriter.Add(e)
}

// parents repeats the directories above an entry that only the lower layers have.
func (in *inbound) parents(dir string) error {
	if dir == "." {
		return nil
	}
	if fi, err := os.Lstat(filepath.Join(in.upper, dir)); err == nil && fi.IsDir() {
		return nil
	}
	e, err := in.tree.Lstat(dir)
	if err != nil {
		return err
	}
	if err := in.parents(path.Dir(dir)); err != nil {
		return err
	}
	return in.DirWriter.Add(e)
}

func isWhiteout(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}
