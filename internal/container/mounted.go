package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// mountedTree is the root of a container that does not run with its bind mounts, as it sees them when it runs: its volumes among them. What
// lies under one is not seen.
type mountedTree struct {
	layer.Tree // without them
	mounts     []*mountedAt
}

// mountedAt is a mount.
type mountedAt struct {
	at       string     // its path in the container, relative to its root and without symbolic links
	dir      string     // of the host
	base     string     // what of dir is mounted: ".", or the name of a file
	tree     layer.Tree // of dir
	readOnly bool
	writer   *layer.DirWriter // nil before something is written
}

// withMounts puts a container's bind mounts over its layers. What is mounted later lies over what is mounted before.
func (m *Manager) withMounts(under layer.Tree, c store.Container) (*mountedTree, error) {
	t := &mountedTree{Tree: under}
	config, err := ReadConfig(c)
	if err != nil {
		return nil, err
	}
	for _, b := range config.Mounts {
		if b.Bind == "" {
			continue
		}
		mt, err := m.mountOf(t, b)
		if err != nil {
			return nil, fmt.Errorf("what is mounted at %s: %w", b.Dest, err)
		}
		t.mounts = append(t.mounts, mt)
	}
	return t, nil
}

// mountOf finds the place of a mount in a tree.
func (m *Manager) mountOf(t layer.Tree, b sandbox.Mount) (*mountedAt, error) {
	at, err := layer.Resolve(t, b.Dest, true)
	if err != nil {
		return nil, err
	}
	mt := &mountedAt{at: at, dir: b.Bind, base: ".", readOnly: b.ReadOnly}
	fi, err := os.Stat(b.Bind)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist): // without a source there is nothing at it
		return nil, err
	case err == nil && !fi.IsDir():
		real, err := filepath.EvalSymlinks(b.Bind)
		if err != nil {
			return nil, err
		}
		mt.dir, mt.base = filepath.Dir(real), filepath.Base(real)
	}
	mt.tree = m.Store.OpenDir(mt.dir, layer.DirOptions{Live: true})
	return mt, nil
}

// find is the mount that a path is in, and the path in its directory; nil for what is in none.
func (t *mountedTree) find(name string) (m *mountedAt, inside string) {
	for _, m := range slices.Backward(t.mounts) {
		if name == m.at {
			return m, m.base
		}
		if rest, ok := strings.CutPrefix(name, m.at+"/"); ok {
			return m, path.Join(m.base, rest)
		}
	}
	return nil, ""
}

// below are the names in a directory that are mounts, or lead to some.
func (t *mountedTree) below(name string) (names []string) {
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	for _, m := range t.mounts {
		if rest, ok := strings.CutPrefix(m.at, prefix); ok {
			first, _, _ := strings.Cut(rest, "/")
			names = append(names, first)
		}
	}
	return names
}

// Lstat implements [layer.Tree]. A directory that only leads to a mount is there when the container runs.
func (t *mountedTree) Lstat(name string) (e *layer.Entry, err error) {
	if m, inside := t.find(name); m != nil {
		e, err = m.tree.Lstat(inside)
		e = at(e, name)
	} else {
		e, err = t.Tree.Lstat(name)
	}
	if errors.Is(err, fs.ErrNotExist) && len(t.below(name)) > 0 {
		return &layer.Entry{Path: name, Mode: unix.S_IFDIR | 0o755}, nil
	}
	return e, err
}

// ReadDir implements [layer.Tree].
func (t *mountedTree) ReadDir(name string) (all []*layer.Entry, err error) {
	if m, inside := t.find(name); m != nil {
		all, err = m.tree.ReadDir(inside)
		for i, e := range all {
			all[i] = at(e, path.Join(name, path.Base(e.Path)))
		}
	} else {
		all, err = t.Tree.ReadDir(name)
	}
	mounted := t.below(name)
	if err != nil && (!errors.Is(err, fs.ErrNotExist) || len(mounted) == 0) {
		return nil, err
	}
	for _, base := range mounted {
		p := path.Join(name, base)
		all = slices.DeleteFunc(all, func(e *layer.Entry) bool { return e.Path == p })
		e, err := t.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *layer.Entry) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// at is an entry at another path.
func at(e *layer.Entry, name string) *layer.Entry {
	if e == nil {
		return nil
	}
	moved := *e
	moved.Path = name
	return &moved
}

// add writes an entry into a mount.
func (t *mountedTree) add(s *store.Store, m *mountedAt, inside string, e *layer.Entry) (err error) {
	moved := at(e, inside)
	switch {
	case m.readOnly:
		return fmt.Errorf("%w destination: what is mounted at /%s is read-only", ErrInvalid, m.at)
	case m.base != ".":
		return fmt.Errorf("%w destination: /%s is a file of the host, which is written to by a container that runs alone", ErrInvalid, m.at)
	case e.Hardlink:
		target, link := t.find(e.Link)
		if target != m {
			return crossLink(e)
		}
		moved.Link = link
	}
	if m.writer == nil {
		if m.writer, err = s.MountWriter(m.dir); err != nil {
			return err
		}
		m.writer.KeepDirs()
	}
	return m.writer.Add(moved)
}

// crossLink is the error of a name of a file that lies in another mount.
func crossLink(e *layer.Entry) error {
	return fmt.Errorf("%w archive: /%s is to be a name of /%s, which lies in another mount", ErrInvalid, e.Path, e.Link)
}

// close ends what was written.
func (t *mountedTree) close() (err error) {
	for _, m := range t.mounts {
		if m.writer != nil {
			err = errors.Join(err, m.writer.Close())
		}
	}
	return err
}
