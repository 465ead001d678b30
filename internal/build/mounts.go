package build

import (
	"context"
	"errors"

	"github.com/slipway-build/slipway/internal/cache"
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

// exportMounts writes the cache mounts that steps have used into the caches that carry them.
func (b *building) exportMounts(ctx context.Context) error {
	used := b.run.CacheMounts()
	for _, t := range b.caches.to {
		to := t.Mounts()
		if to == nil || len(used) == 0 {
			continue
		}
		name := "exporting cache mounts to " + to.Place()
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
