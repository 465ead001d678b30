package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

// file carries a file operation out: it is planned against the inputs' trees, and each plan is a
// layer. Nothing is written here: a RUN that mounts the layer makes the store write a directory,
// an export a blob. What has no step is cached; where it has one, so has what stands on it.
func (r *Run) file(ctx context.Context, w work, n *node, op *pb.FileOp, inputs []Value) ([]Value, error) {
	uses, err := n.uses()
	if err != nil {
		return nil, err
	}
	trees := make([]layer.Tree, len(inputs))
	for i, in := range inputs {
		need := store.NeedContent
		if uses[i].whole && !uses[i].read {
			need = store.NeedMetadata
		}
		if trees[i], err = r.Tree(ctx, in, need); err != nil {
			return nil, err
		}
		if in.local() {
			trees[i] = local.Strict(trees[i])
		}
	}
	tmp, err := r.Engine.opt.Store.TempDir() // for unpacked archives, until their layer is written
	if err != nil {
		return nil, err
	}
	outs, err := fileop.Make(ctx, op, trees, fileop.Options{TempDir: tmp})
	if err != nil {
		return nil, r.failedAction(ctx, w, n, op, inputs, errors.Join(err, os.RemoveAll(tmp)))
	}
	w.of.keepPlans(outs, tmp)
	plan := r.Engine.opt.Store.Plan
	if e := n.export.Load(); w.step != nil && e != nil && e.epoch == nil && n.runs() {
		plan = r.Engine.opt.Store.PlanBoth
	}
	layers, err := planLayers(w, outs, plan)
	if err != nil {
		return nil, err
	}
	var values []Value
	for _, out := range outs {
		v, err := r.planned(ctx, out, inputs, layers)
		if err != nil {
			return nil, err
		}
		for len(values) <= out.Index {
			values = append(values, Value{})
		}
		values[out.Index] = v
	}
	return values, nil
}

// planLayers makes a layer of each plan; a plan may be part of several outputs.
func planLayers(w work, outs []fileop.Output, plan func(store.Planned, time.Time) (layer.ID, error)) (map[*fileop.Plan]layer.ID, error) {
	layers := map[*fileop.Plan]layer.ID{}
	for _, out := range outs {
		for _, p := range out.Plans {
			if _, ok := layers[p]; ok {
				continue
			}
			id, err := plan(p, w.created)
			if err != nil {
				return nil, err
			}
			layers[p] = id
			w.of.keepPlan(id)
		}
	}
	return layers, nil
}

// runs reports whether a process will see the layers of a node that is carried out: one that stands on it, or on file
// operations that do.
func (n *node) runs() bool {
	u := n.user.Load()
	if u == nil {
		return false
	}
	uses, err := u.uses()
	if err != nil {
		return false // evaluating it will tell
	}
	for i, in := range u.inputs {
		if in.n == n && uses[i].whole {
			return u.v.Op.GetExec() != nil || u.v.Op.GetFile() != nil && u.runs()
		}
	}
	return false
}

// planned makes the value of one output.
func (r *Run) planned(ctx context.Context, out fileop.Output, inputs []Value, layers map[*fileop.Plan]layer.ID) (Value, error) {
	var v Value
	if out.Base >= 0 {
		var err error
		if v, err = r.stored(ctx, inputs[out.Base]); err != nil {
			return v, err
		}
	}
	v.Snapshot = slices.Clone(v.Snapshot)
	for _, p := range out.Plans {
		v.Snapshot = append(v.Snapshot, layers[p])
		v.tree = p
	}
	return v, nil
}

// keepPlans keeps plans, and the directory with their temporary files, as long as somebody holds them.
func (s *shared) keepPlans(outs []fileop.Output, tmp string) {
	s.whenOver(func() {
		for _, o := range outs {
			for _, p := range o.Plans {
				p.Close() //nolint:errcheck // temporary files, in the directory that goes away
			}
		}
		os.RemoveAll(tmp) // what stays is swept with the lease
	})
}

// writeLayer makes a layer, in directory form, of the entries that write gives.
func (r *Run) writeLayer(ctx context.Context, write func(layer.Sink) error) (layer.ID, error) {
	draft, err := r.Engine.opt.Store.NewLayer()
	if err != nil {
		return "", err
	}
	defer draft.Abort()
	sink, err := r.Engine.opt.Store.DirWriter(draft.FS)
	if err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	if err := errors.Join(write(sink), sink.Close()); err != nil {
		return "", fmt.Errorf("writing layer: %w", err)
	}
	return draft.Commit(ctx)
}

// stored returns a value as layers of the store. A local source is copied into one; the layer is
// found again by its content.
func (r *Run) stored(ctx context.Context, v Value) (Value, error) {
	if !v.local() {
		return v, nil
	}
	id, err := r.writeLayer(ctx, func(s layer.Sink) error { return layer.WriteTree(v.tree, s) })
	return Value{Snapshot: layer.Snapshot{id}}, err
}
