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
func (r *Run) Clamp(ctx context.Context, v Value, inherited int, epoch time.Time) (Value, error) {
	ctx, end := r.begin(ctx)
	defer end()
	snap := slices.Clone(v.Snapshot)
	for i := inherited; i < len(snap); i++ {
		var err error
		if snap[i], err = r.clampLayer(ctx, snap[i], epoch); err != nil {
			return Value{}, err
		}
	}
	return Value{Snapshot: snap}, nil
}

// clampLayer returns the clamped form of a layer: one of an earlier build, or a plan.
func (r *Run) clampLayer(ctx context.Context, id layer.ID, epoch time.Time) (layer.ID, error) {
	key := r.clampKey(id, epoch)
	p := pool(r, r.clamped, string(id)+" "+r.recordKey(key), false, r.planOf(id))
	clamped, err := p.do(ctx, p.ctx, r, func(ctx context.Context) (layer.ID, error) {
		s := r.Engine.opt.Store
		known, ok, _, err := r.recallMemo(ctx, key)
		if err != nil {
			return "", err
		}
		if ok && s.Check(ctx, layer.Snapshot{layer.ID(known)}) == nil {
			return layer.ID(known), nil
		}
		clamped, err := s.PlanClamped(ctx, id, epoch)
		if err != nil {
			return "", err
		}
		p.keepPlan(clamped)
		p.remember(func(ctx context.Context) error { return r.keepClamped(ctx, key, clamped) })
		return clamped, nil
	})
	if err != nil {
		return "", fmt.Errorf("clamping times: %w", err)
	}
	return clamped, nil
}

// clampKey is what the clamped form of a layer is remembered under. A layer that is only planned is
// another one in the next build, but the step that gives it has the same key.
func (r *Run) clampKey(id layer.ID, epoch time.Time) string {
	var k keyLines
	k.add("operation", "clamp")
	k.add("epoch", epoch.UTC().Format(time.RFC3339))
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	for _, s := range r.used() {
		if s.result == nil {
			continue
		}
		for i, out := range s.result.result.Outputs {
			if len(out) > 0 && out[len(out)-1] == id {
				k.add("result", fmt.Sprintf("%s output %d", s.result.key, i))
				return string(k.sum())
			}
		}
	}
	k.add("layer", string(id))
	return string(k.sum())
}

// keepClamped remembers a clamped layer, if it was written.
func (r *Run) keepClamped(ctx context.Context, key string, id layer.ID) error {
	ok, err := r.Engine.opt.Store.Recorded(ctx, layer.Snapshot{id})
	if err != nil || !ok {
		return err
	}
	return r.putMemo(ctx, key, string(id))
}
