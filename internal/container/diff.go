package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Change is a difference of a container's filesystem from its image's.
type Change struct {
	Kind ChangeKind
	Path string // absolute
}

// ChangeKind is a letter of `diff`.
type ChangeKind string

const (
	Modified ChangeKind = "C"
	Added    ChangeKind = "A"
	Deleted  ChangeKind = "D"
)

// Diff lists what changed, parents first, by the rules of Docker's engine (moby/go-archive, changes.go):
// a directory is listed when its attributes changed or something in it was added or deleted.
func (m *Manager) Diff(ctx context.Context, c store.Container) ([]Change, error) {
	lower, err := m.Store.Tree(ctx, c.Snapshot, store.NeedMetadata)
	if err != nil {
		return nil, fmt.Errorf("comparing container %s: %w", c.Name, err)
	}
	changes, err := compare(ctx, lower, m.upperTree(c))
	if err != nil {
		return nil, fmt.Errorf("comparing container %s: %w", c.Name, err)
	}
	return changes, nil
}

// compare lists what the writable layer upper, which may change meanwhile, changes in lower.
func compare(ctx context.Context, lower, upper layer.Tree) ([]Change, error) {
	d := &differ{lower: lower, listed: map[string]bool{".": true}}
	err := layer.WalkLive(upper, ".", false, func(e *layer.Entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return d.entry(upper, e)
	})
	if err != nil {
		return nil, err
	}
	// What an opaque directory hides came before what it has.
	slices.SortStableFunc(d.changes, func(a, b Change) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return d.changes, nil
}

// absent reports whether there is nothing at a path: also where what is above it is no directory.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

type differ struct {
	lower   layer.Tree
	listed  map[string]bool // directories that are in changes, or need not be
	changes []Change
}

func (d *differ) entry(upper layer.Tree, e *layer.Entry) error {
	if e.Path == "." {
		return nil
	}
	old, err := d.lower.Lstat(e.Path)
	there := err == nil
	if err != nil && !absent(err) {
		return err
	}
	switch {
	case e.Whiteout:
		if there {
			d.add(Deleted, e.Path)
		}
		return nil
	case !there:
		d.add(Added, e.Path)
	case e.IsDir() && old.IsDir() && e.Mode == old.Mode && e.ModTime.Equal(old.ModTime):
	default:
		d.add(Modified, e.Path)
	}
	if e.IsDir() {
		d.listed[e.Path] = d.listed[e.Path] || !there
	}
	if e.Opaque && there && old.IsDir() {
		return d.hidden(upper, e.Path)
	}
	return nil
}

// hidden lists what an opaque directory hides.
func (d *differ) hidden(upper layer.Tree, dir string) error {
	old, err := d.lower.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range old {
		if _, err := upper.Lstat(e.Path); absent(err) {
			d.add(Deleted, e.Path)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) add(kind ChangeKind, name string) {
	if parent := path.Dir(name); kind != Modified && !d.listed[parent] {
		d.listed[parent] = true
		d.changes = append(d.changes, Change{Modified, "/" + parent})
	}
	if kind == Modified {
		if d.listed[name] {
			return
		}
		d.listed[name] = true
	}
	d.changes = append(d.changes, Change{kind, "/" + name})
}
