package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/progress"
)

// bringMount makes a cache mount what an imported cache has of it that is newer. What cannot be had is a failed step, and the build goes on with what
// there is.
func (b *building) bringMount(ctx context.Context, m cache.Mount) {
	for _, from := range b.caches.mounts {
		if _, gone := b.caches.silent.Load(from); gone || !from.Has(m) {
			continue
		}
		name := "importing cache mount " + m.Describe() + " from " + from.Place()
		step := progress.Start(b.sink, progress.Vertex{Digest: b.id(name + m.ID), Name: name})
		changed, err := from.Import(ctx, b.opt.Store, b.images.Registry(), m, func(line string, done bool) { step.Status(line, 0, 0, done) })
		step.Done(err)
		if err != nil && !errors.Is(err, cache.ErrMount) { // it would not answer for others either
			b.caches.silent.Store(from, true)
		}
		if changed {
			return
		}
	}
}

// exportMounts writes the cache mounts that steps have used into the caches that carry them. how is said of it in a display.
func (b *building) exportMounts(ctx context.Context, how string) error {
	used := b.run.CacheMounts()
	for _, t := range b.caches.to {
		to := t.Mounts()
		if to == nil || len(used) == 0 {
			continue
		}
		name := "exporting cache mounts to " + to.Place() + how
		step := progress.Start(b.sink, progress.Vertex{Digest: b.id(name), Name: name})
		var err error
		for _, m := range used {
			if err == nil && to.Has(m) {
				err = to.Export(ctx, b.opt.Store, b.images.Registry(), m, func(line string, done bool) { step.Status(line, 0, 0, done) })
			}
		}
		step.Done(err)
		if err != nil && !t.IgnoreFailure(ctx, err) {
			return err
		}
	}
	return nil
}

// saveMounts writes those of builds that a failed step has ended, for a bounded time: what tools have made until then need not be made again by who
// mends it. What does not become of it is no failure of its own.
func (j *job) saveMounts(ctx context.Context, failed error) {
	var step *engine.Failure
	if ctx.Err() != nil || !errors.As(failed, &step) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, afterFailure)
	defer cancel()
	for _, b := range j.all {
		if b.done == nil && b.run != nil && b.req.Call == "" {
			b.exportMounts(ctx, fmt.Sprintf(" for the next build, in %s at most", afterFailure)) //nolint:errcheck // see above
		}
	}
}
