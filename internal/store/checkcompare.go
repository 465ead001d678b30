package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/slipway-build/slipway/internal/layer"
)

// compare looks at what a layer has beside a blob that is what it should be.
func (c *checker) compare(ctx context.Context, l LayerInfo, tree layer.Tree, want layer.Stacking) error {
	if l.Dir && !c.inv.packed(l) { // that is packed again, which tells as much
		if err := c.compareDir(ctx, l, tree); err != nil {
			return err
		}
	}
	if err := c.compareIndex(ctx, l, tree); err != nil {
		return err
	}
	kept, err := c.s.keptStacking(l.ID)
	switch {
	case err == nil && slices.Equal(kept.Dirs, want.Dirs) && maps.Equal(kept.Links, want.Links):
		return nil
	case err == nil:
		err = errors.New("it is not what the blob tells")
	}
	if beside, rerr := c.exists(ctx, "layers", "id", string(l.ID)); rerr != nil || !beside {
		return rerr
	}
	c.add(Finding{Kind: "implied", Subject: string(l.ID), Problem: err.Error(), Means: "directories and hard links of the layers below are not seen as they are",
		Repair: "write it again from the blob", mend: func(context.Context) error {
			if want.Empty() {
				return os.Remove(c.s.stackingFile(l.ID))
			}
			return c.s.putStacking(l.ID, want)
		}})
	return nil
}

// compareDir compares the directory form of a layer with what its blob has.
func (c *checker) compareDir(ctx context.Context, l LayerInfo, tree layer.Tree) error {
	var files differences
	err := layer.Diff(tree, &readTree{c.s.dirTree(c.s.layerFS(l.ID)), c, ctx}, files.add)
	if err == nil && files.n == 0 {
		return nil
	}
	return c.wrongDir(ctx, l, files, err)
}

// wrongDir is a finding about the directory form of a layer, unless it is gone.
func (c *checker) wrongDir(ctx context.Context, l LayerInfo, files differences, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if recorded, rerr := c.exists(ctx, "layers", "dir=1 AND id", string(l.ID)); rerr != nil || !recorded {
		return rerr
	}
	if _, lerr := os.Lstat(c.s.layerFS(l.ID)); errors.Is(lerr, fs.ErrNotExist) {
		return nil // told of already
	}
	problem := fmt.Sprintf("%d files of its directory are not as they should be", files.n)
	if err != nil {
		problem = fmt.Sprintf("its directory: %v", err)
	}
	c.mu.Lock()
	c.wrong[l.ID] = true
	c.mu.Unlock()
	c.add(Finding{Kind: "layer", Subject: string(l.ID), Problem: problem, Files: files.first, Means: "steps and containers on top of it see that",
		Repair: "drop the directory if a blob gives it again, otherwise the cache that needs it", mend: func(ctx context.Context) error { return c.dropDir(ctx, l.ID) }})
	return nil
}

// differences are files that are not the same: how many, and the first.
type differences struct {
	n     int
	first []string
}

func (d *differences) add(x layer.Difference) error {
	if d.n++; len(d.first) < maxFiles {
		d.first = append(d.first, x.String())
	}
	return nil
}

// readTree is a tree whose contents are counted when they are read.
type readTree struct {
	layer.Tree
	c   *checker
	ctx context.Context
}

func (t *readTree) ReadDir(name string) ([]*layer.Entry, error) {
	if t.ctx.Err() != nil {
		return nil, context.Cause(t.ctx)
	}
	all, err := t.Tree.ReadDir(name)
	for _, e := range all {
		if e.Content != nil {
			e.Content = &countedContent{e.Content, t}
		}
	}
	return all, err
}

type countedContent struct {
	of layer.Content
	t  *readTree
}

func (c *countedContent) Open() (io.ReadCloser, error) {
	f, err := c.of.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{counted{layer.ContextReader(c.t.ctx, f), c.t.c}, f}, nil
}

// compareIndex compares the index that is kept of a layer with what its blob has.
func (c *checker) compareIndex(ctx context.Context, l LayerInfo, tree layer.Tree) error {
	path := c.s.indexPath(l.ID)
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	var files differences
	x, err := c.s.openIndex(l.ID)
	if errors.Is(err, layer.ErrIndexVersion) {
		return nil // and nobody reads it
	}
	problem := "it is damaged"
	if err == nil {
		kept := &keptTree{x.Tree(func(e *layer.IndexEntry) (io.ReadCloser, error) { return c.placed(l, e) }), x.Located(), ctx}
		err := layer.Diff(tree, kept, files.add)
		if err == nil && kept.located {
			err = layer.Walk(kept, ".", files.addMisplaced)
		}
		if err == nil && files.n == 0 {
			return nil
		}
		if problem = fmt.Sprintf("%d files in it are not as in the blob", files.n); err != nil {
			problem = err.Error()
		}
	}
	if recorded, err := c.exists(ctx, "layers", "id", string(l.ID)); err != nil || !recorded || ctx.Err() != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	c.add(Finding{Kind: "index", Subject: string(l.ID), Problem: problem, Files: files.first, Means: "copies from the layer find other files",
		Repair: "delete it; it is made again when it is needed", mend: func(context.Context) error { return os.Remove(path) }})
	return nil
}

// placed opens a content at its place in the plain tar of a layer.
func (c *checker) placed(l LayerInfo, e *layer.IndexEntry) (io.ReadCloser, error) {
	f, err := OpenRegular(c.s.blobPath(l.DiffID))
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, e.Offset, e.Size), f}, nil
}

// keptTree is the tree of an index that is kept.
type keptTree struct {
	layer.Tree
	located bool // it tells places and digests of contents
	ctx     context.Context
}

func (t *keptTree) ReadDir(name string) ([]*layer.Entry, error) {
	if t.ctx.Err() != nil {
		return nil, context.Cause(t.ctx)
	}
	all, err := t.Tree.ReadDir(name)
	for _, e := range all {
		if !t.located {
			e.Content, e.Digest = nil, ""
		}
	}
	return all, err
}

// addMisplaced adds a file of whose content something else is in its place.
func (d *differences) addMisplaced(e *layer.Entry) error {
	if e.Content == nil {
		return nil
	}
	if sum, err := layer.HashContent(e); err != nil || sum != e.Digest {
		return d.add(layer.Difference{Path: e.Path, Kind: layer.Changed, What: []string{"place"}})
	}
	return nil
}
