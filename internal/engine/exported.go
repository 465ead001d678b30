package engine

import (
	"context"
	"time"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
)

// ExportedResult evaluates an edge whose layers will be exported as blobs. They are packed as soon
// as they are there, beside the steps that come after them; with an epoch, as [Run.Clamp] has them.
func (r *Run) ExportedResult(ctx context.Context, e graph.Edge, epoch *time.Time) (Value, error) {
	r.WillExport(e, epoch)
	ctx, end := r.begin(ctx)
	defer end()
	v, err := r.value(ctx, edge{r.node(e.Vertex), e.Index})
	if err != nil {
		return v, err
	}
	missing, err := r.Engine.opt.Store.MissingBlobs(ctx, v.Snapshot)
	if err != nil || !missing {
		return v, err
	}
	return v, r.exportedSources(ctx, e)
}

// WillExport tells that [Run.ExportedResult] will be asked for an edge. Of several edges that are
// evaluated at the same time all are told first: they may share nodes.
func (r *Run) WillExport(e graph.Edge, epoch *time.Time) {
	r.seen(e)
	r.exported(r.node(e.Vertex), epoch)
}

// WillRead tells that an edge will be asked for after others, so that nothing below it is made in a way that cannot be seen.
func (r *Run) WillRead(e graph.Edge) { r.seen(e) }

// exportedSources evaluates the images that an exported result stands on. Steps that are cached do not ask
// for them, and only they know how to fetch what was lost of their layers.
func (r *Run) exportedSources(ctx context.Context, e graph.Edge) error {
	for _, n := range r.below([]graph.Edge{e}) {
		if n.export.Load() == nil || !n.isSource() || isLocal(n) {
			continue
		}
		if _, err := n.result(ctx); err != nil {
			return err
		}
	}
	return nil
}

// exporting says how the layers of a node will be asked for: with an epoch as [Run.Clamp] has them.
type exporting struct{ epoch *time.Time }

// exported marks a node and what its layers stand on. Another build may evaluate it already: then its layers are packed when
// they are asked for.
func (r *Run) exported(n *node, epoch *time.Time) {
	if n == nil || !n.export.CompareAndSwap(nil, &exporting{epoch}) {
		return
	}
	uses, err := n.uses()
	if err != nil {
		return // evaluating it will tell
	}
	for i, u := range uses {
		if u.whole {
			r.exported(n.inputs[i].n, epoch)
		}
	}
}

// packAhead begins to pack the layers that a node has made, which goes on after the evaluation. Errors come out again when the
// blobs are asked for.
func (r *Run) packAhead(ctx context.Context, n *node, outputs []Value) {
	for _, v := range outputs {
		if len(v.Snapshot) == 0 {
			continue
		}
		r.beside(ctx, func(ctx context.Context) {
			id := v.Snapshot[len(v.Snapshot)-1]
			if epoch := n.export.Load().epoch; epoch != nil {
				var err error
				if id, err = r.clampLayer(ctx, id, *epoch); err != nil {
					return
				}
			}
			r.Engine.opt.Store.Blob(ctx, id, layer.Encoding{}) //nolint:errcheck // see above
		})
	}
}
