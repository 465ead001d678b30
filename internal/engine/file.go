package engine

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
)

// file carries a file operation out: it is planned against the inputs' trees, and each plan is
// written as one layer.
func (r *Run) file(op *pb.FileOp, inputs []Value) ([]Value, error) {
	trees := make([]layer.Tree, len(inputs))
	for i, in := range inputs {
		var err error
		if trees[i], err = r.Tree(r.ctx, in); err != nil {
			return nil, err
		}
	}
	outs, err := fileop.Make(r.ctx, op, trees, fileop.Options{})
	if err != nil {
		return nil, err
	}
	defer closePlans(outs)
	layers := map[*fileop.Plan]layer.ID{} // a plan may be part of several outputs
	var values []Value
	for _, out := range outs {
		var v Value
		if out.Base >= 0 {
			if v, err = r.stored(inputs[out.Base]); err != nil {
				return nil, err
			}
		}
		snap := append(layer.Snapshot(nil), v.Snapshot...)
		for _, p := range out.Plans {
			if _, ok := layers[p]; !ok {
				if layers[p], err = r.writeLayer(p.WriteTo); err != nil {
					return nil, err
				}
			}
			snap = append(snap, layers[p])
		}
		for len(values) <= out.Index {
			values = append(values, Value{})
		}
		values[out.Index] = Value{Snapshot: snap}
	}
	return values, nil
}

// closePlans frees what plans hold. Their layers are written.
func closePlans(outs []fileop.Output) {
	for _, o := range outs {
		for _, p := range o.Plans {
			p.Close() // temporary files of unpacked archives
		}
	}
}

// writeLayer makes a layer, in directory form, of the entries that write gives.
func (r *Run) writeLayer(write func(layer.Sink) error) (layer.ID, error) {
	draft, err := r.Engine.opt.Store.NewLayer()
	if err != nil {
		return "", err
	}
	defer draft.Abort()
	sink, err := layer.NewDirWriter(draft.FS)
	if err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	if err := errors.Join(write(sink), sink.Close()); err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	if r.ctx.Err() != nil {
		return "", r.ctx.Err()
	}
	return draft.Commit(r.ctx)
}

// stored returns a value as layers of the store. A local source is copied into one; the layer is
// found again by its content.
func (r *Run) stored(v Value) (Value, error) {
	if v.tree == nil {
		return v, nil
	}
	id, err := r.writeLayer(func(s layer.Sink) error { return copyTree(v.tree, s) })
	return Value{Snapshot: layer.Snapshot{id}}, err
}

// copyTree hands every entry of a tree but its root to a sink.
func copyTree(t layer.Tree, sink layer.Sink) error {
	return layer.Walk(t, ".", func(e *layer.Entry) error {
		if e.Path == "." {
			return nil
		}
		return sink.Add(e)
	})
}
