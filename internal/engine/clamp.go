package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// Clamp returns v with other layers, in which no file is later than the epoch, so that builds at
// other times give the same bytes (https://reproducible-builds.org/specs/source-date-epoch/). The
// first layers of v, inherited in number, stay as they are: they are somebody else's.
//
// Clamping comes after caching: a build with another epoch runs nothing again.
func (r *Run) Clamp(v Value, inherited int, epoch time.Time) (Value, error) {
	snap := slices.Clone(v.Snapshot)
	for i := inherited; i < len(snap); i++ {
		var err error
		if snap[i], err = r.clampLayer(snap[i], epoch); err != nil {
			return Value{}, err
		}
	}
	return Value{Snapshot: snap}, nil
}

// clampLayer returns the clamped form of a layer: one of an earlier build, or a plan.
func (r *Run) clampLayer(id layer.ID, epoch time.Time) (layer.ID, error) {
	s := r.Engine.opt.Store
	key := r.clampKey(id, epoch)
	shared := string(id) + " " + r.recordKey(key)
	v, err, _ := r.same.Do(shared, func() (any, error) {
		r.Group.mu.Lock()
		have, ok := r.clamped[shared]
		r.Group.mu.Unlock()
		if ok {
			return have.id, nil
		}
		known, ok, err := r.recallMemo(key)
		if err != nil {
			return nil, err
		}
		clamped := layer.ID(known)
		if ok && s.Check(r.ctx, layer.Snapshot{clamped}) == nil {
			return clamped, nil
		}
		clamped, err = s.PlanClamped(r.ctx, id, epoch)
		if err != nil {
			return nil, err
		}
		r.keepPlan(clamped)
		r.Group.mu.Lock()
		defer r.Group.mu.Unlock()
		r.clamped[shared] = clampedLayer{r, key, clamped}
		return clamped, nil
	})
	if err != nil {
		return "", fmt.Errorf("clamping times: %w", err)
	}
	return v.(layer.ID), nil
}

// clampKey is what the clamped form of a layer is remembered under. A layer that is only planned is
// another one in the next build, but the step that gives it has the same key.
func (r *Run) clampKey(id layer.ID, epoch time.Time) string {
	var k keyLines
	k.add("operation", "clamp")
	k.add("epoch", epoch.UTC().Format(time.RFC3339))
	r.Group.mu.Lock()
	defer r.Group.mu.Unlock()
	for _, p := range r.pending {
		for i, out := range p.result.Outputs {
			if len(out) > 0 && out[len(out)-1] == id {
				k.add("result", fmt.Sprintf("%s output %d", p.key, i))
				return string(k.sum())
			}
		}
	}
	k.add("layer", string(id))
	return string(k.sum())
}

// clampedLayer is what a run made of a layer, and the memo for it.
type clampedLayer struct {
	run *Run
	key string
	id  layer.ID
}

// keepClamped remembers the clamped layers that were written.
func (g *Group) keepClamped(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.clamped {
		ok, err := g.Engine.opt.Store.Recorded(ctx, layer.Snapshot{c.id})
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := c.run.putMemo(ctx, c.key, string(c.id)); err != nil {
			return err
		}
	}
	return nil
}
