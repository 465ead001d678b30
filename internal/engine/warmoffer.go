package engine

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/warm"
)

// Chilled is a step that took long, and would have found the cache of a tool warm.
type Chilled struct {
	Name, Tool string
	Took       time.Duration
}

// Chilled finds, of the steps below some edges that were evaluated, the one that ran for longest which could have run warm: for longer than
// least. nil is none. It must be called before Close.
func (r *Run) Chilled(ctx context.Context, least time.Duration, edges ...graph.Edge) (*Chilled, error) {
	ctx, end := r.begin(ctx)
	defer end()
	took := map[digest.Digest]time.Duration{}
	for _, rec := range r.Records() {
		if !rec.Cached && rec.Shared == "" && rec.Error == "" && rec.Took > least {
			took[rec.Digest] = rec.Took
		}
	}
	if len(took) == 0 {
		return nil, nil
	}
	var views warm.Views
	for _, e := range edges {
		views.Add(e)
	}
	var longest *Chilled
	for _, n := range r.below(edges) {
		t, op := took[n.v.Digest], n.v.Op.GetExec()
		i := rootMount(op)
		if t == 0 || longest != nil && t <= longest.Took || i < 0 || op.Mounts[i].Input < 0 {
			continue
		}
		root, err := r.value(ctx, n.inputs[op.Mounts[i].Input])
		if err != nil {
			return nil, err
		}
		dirs, _, err := r.warmDirs(ctx, n, root, nil, &views)
		if err != nil {
			return nil, err
		}
		if len(dirs) > 0 {
			longest = &Chilled{n.v.Name(), dirs[0].Tool, t}
		}
	}
	return longest, nil
}
