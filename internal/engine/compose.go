package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// merge stacks snapshots: the layers of each input on those of the inputs before it.
func (r *Run) merge(ctx context.Context, op *pb.MergeOp, inputs []Value) ([]Value, error) {
	var snap layer.Snapshot
	for _, in := range op.Inputs {
		if in.Input < 0 {
			continue // scratch
		}
		if int(in.Input) >= len(inputs) {
			return nil, fmt.Errorf("merging: input %d of %d", in.Input, len(inputs))
		}
		v, err := r.stored(ctx, inputs[in.Input])
		if err != nil {
			return nil, err
		}
		own := v.Snapshot
		if len(snap) > 0 {
			if own, err = r.explicit(ctx, nil, own); err != nil {
				return nil, fmt.Errorf("merging: %w", err)
			}
		}
		snap = append(snap, own...)
	}
	return []Value{{Snapshot: snap}}, nil
}

// diff gives what turns the lower filesystem into the upper one. When the upper one stands on
// the lower one's layers, that is the layers on top; otherwise the trees are compared.
func (r *Run) diff(ctx context.Context, op *pb.DiffOp, inputs []Value) ([]Value, error) {
	var ends [2]Value
	for i, in := range []int64{op.GetLower().GetInput(), op.GetUpper().GetInput()} {
		if in < 0 {
			continue
		}
		if int(in) >= len(inputs) {
			return nil, fmt.Errorf("taking difference: input %d of %d", in, len(inputs))
		}
		var err error
		if ends[i], err = r.stored(ctx, inputs[in]); err != nil {
			return nil, err
		}
	}
	lower, upper := ends[0].Snapshot, ends[1].Snapshot
	if isPrefix(lower, upper) {
		own, err := r.explicit(ctx, lower, upper[len(lower):])
		if err != nil {
			return nil, fmt.Errorf("taking difference: %w", err)
		}
		return []Value{{Snapshot: own}}, nil
	}
	lt, err := r.Tree(ctx, ends[0], store.NeedContent)
	if err != nil {
		return nil, err
	}
	ut, err := r.Tree(ctx, ends[1], store.NeedContent)
	if err != nil {
		return nil, err
	}
	id, err := r.writeLayer(ctx, func(s layer.Sink) error { return diffTrees(lt, ut, ".", s) })
	if err != nil {
		return nil, fmt.Errorf("taking difference: %w", err)
	}
	return []Value{{Snapshot: layer.Snapshot{id}}}, nil
}

// explicit gives layers that stand on lower ones as such that may stand on others: where a directory of theirs is opaque, they remove
// what the lower ones have there, and nothing else.
func (r *Run) explicit(ctx context.Context, lower, upper layer.Snapshot) (layer.Snapshot, error) {
	out := append(layer.Snapshot{}, upper...)
	for i, id := range upper {
		own, err := r.Engine.opt.Store.OwnTree(ctx, id, store.NeedMetadata)
		if err != nil {
			return nil, err
		}
		opaque := false
		err = layer.Walk(own, ".", func(e *layer.Entry) error {
			if opaque = e.Opaque; opaque {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if !opaque {
			continue
		}
		if own, err = r.Engine.opt.Store.OwnTree(ctx, id, store.NeedContent); err != nil {
			return nil, err
		}
		below, err := r.Engine.opt.Store.Tree(ctx, append(append(layer.Snapshot{}, lower...), upper[:i]...), store.NeedMetadata)
		if err != nil {
			return nil, err
		}
		if out[i], err = r.writeLayer(ctx, func(s layer.Sink) error { return layer.WriteTree(own, &explicitSink{s, own, below, map[string]bool{}}) }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// explicitSink takes a layer and hands it on without opaque directories: with a whiteout of everything that the tree below has in such a
// one, and the layer has not.
type explicitSink struct {
	layer.Sink
	own, below layer.Tree
	hidden     map[string]bool // directories that are opaque, or below one
}

func (s *explicitSink) Add(e *layer.Entry) error {
	if e.Implied { // its attributes are those of the directory below
		if old, err := s.below.Lstat(e.Path); err == nil && old.IsDir() {
			c := *old
			c.Opaque = e.Opaque
			e = &c
		}
	}
	if !e.IsDir() || !e.Opaque && !s.hidden[path.Dir(e.Path)] {
		return s.Sink.Add(e)
	}
	s.hidden[e.Path] = true
	c := *e
	c.Opaque = false
	if err := s.Sink.Add(&c); err != nil {
		return err
	}
	entries, err := s.own.ReadDir(e.Path)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		have[e.Path] = true
	}
	return hide(s.below, e.Path, have, s.Sink)
}

// hide hands whiteouts to sink of what a tree has in a directory, if it is one there, but for some.
func hide(below layer.Tree, name string, but map[string]bool, sink layer.Sink) error {
	old, err := below.ReadDir(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range old {
		if but[e.Path] {
			continue
		}
		if err := sink.Add(&layer.Entry{Path: e.Path, Whiteout: true}); err != nil {
			return err
		}
	}
	return nil
}

func isPrefix(short, long layer.Snapshot) bool {
	if len(short) > len(long) {
		return false
	}
	for i := range short {
		if short[i] != long[i] {
			return false
		}
	}
	return true
}

// diffTrees hands the changes below dir, a directory in both trees, to sink. Like BuildKit's
// comparison it takes files with the same metadata and modification time for the same, but for
// times of whole seconds, which say little: files that an archive brought have no others. There
// the content is compared.
func diffTrees(lower, upper layer.Tree, dir string, sink layer.Sink) error {
	old, err := lower.ReadDir(dir)
	if err != nil {
		return err
	}
	now, err := upper.ReadDir(dir)
	if err != nil {
		return err
	}
	before := map[string]*layer.Entry{}
	for _, e := range old {
		before[path.Base(e.Path)] = e
	}
	for _, e := range now {
		was := before[path.Base(e.Path)]
		delete(before, path.Base(e.Path))
		if err := diffEntry(lower, upper, was, e, sink); err != nil {
			return err
		}
	}
	for _, e := range old { // in order
		if before[path.Base(e.Path)] != nil {
			if err := sink.Add(&layer.Entry{Path: e.Path, Whiteout: true}); err != nil {
				return err
			}
		}
	}
	return nil
}

func diffEntry(lower, upper layer.Tree, was, e *layer.Entry, sink layer.Sink) error {
	same := false
	if was != nil {
		var err error
		if same, err = layer.Same(was, e); err != nil {
			return fmt.Errorf("comparing %q: %w", e.Path, err)
		}
	}
	switch {
	case was != nil && was.IsDir() && e.IsDir():
		if err := sink.Add(e); err != nil {
			return err
		}
		return diffTrees(lower, upper, e.Path, sink)
	case same:
		return nil
	case was != nil && e.IsDir():
		opaque := *e
		opaque.Opaque = true
		e = &opaque
	}
	if !e.IsDir() {
		return sink.Add(e)
	}
	return layer.Walk(upper, e.Path, func(sub *layer.Entry) error {
		if sub.Path == e.Path {
			sub = e
		}
		return sink.Add(sub)
	})
}

// passthrough hands inputs on as outputs.
func passthrough(op *pb.PassthroughOp, inputs []Value) ([]Value, error) {
	values := make([]Value, len(op.Outputs))
	for i, in := range op.Outputs {
		if in < 0 || int(in) >= len(inputs) {
			return nil, fmt.Errorf("passing on: input %d of %d", in, len(inputs))
		}
		values[i] = inputs[in]
	}
	return values, nil
}
