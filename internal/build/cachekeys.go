package build

import (
	"context"
	"strings"
	"sync"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
)

// keyed writes what a build makes into its caches of mode=keys, each result when it is there, beside the steps that come after.
type keyed struct {
	b    *building
	to   []*cache.To
	stop context.CancelFunc
	wake chan struct{} // something may be there
	end  chan struct{} // closed when nothing more comes
	work sync.WaitGroup

	sent map[string]bool // results and digests that every cache has
}

// startKeyed begins, for a run that was begun. It returns nil where there is no such cache.
func (b *building) startKeyed(ctx context.Context) *keyed {
	k := &keyed{b: b, wake: make(chan struct{}, 1), end: make(chan struct{}), sent: map[string]bool{}}
	for _, t := range b.caches.to {
		if t.Keys() {
			k.to = append(k.to, t)
		}
	}
	if len(k.to) == 0 || b.req.Call != "" {
		return nil
	}
	ctx, k.stop = context.WithCancel(ctx)
	k.work.Go(func() { k.run(ctx) })
	return k
}

// ended is told that a step has ended. It does not wait. k may be nil.
func (k *keyed) ended() {
	if k == nil {
		return
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keyed) run(ctx context.Context) {
	for {
		select {
		case <-k.wake:
			k.send(ctx, nil, func(string, bool) {}) //nolint:errcheck // the last one tries again, and tells
		case <-k.end:
			return
		case <-ctx.Done():
			return
		}
	}
}

// send writes what is there by now and was not sent. A failure of one cache does not keep others from it.
func (k *keyed) send(ctx context.Context, edges []graph.Edge, tell cache.Tell) (failed error) {
	set, err := k.b.run.Made(ctx, k.sent, edges...)
	if err != nil {
		return err
	}
	if len(set.Records)+len(set.Memos) == 0 {
		return nil
	}
	for _, t := range k.to {
		err := t.ExportKeys(ctx, k.b.opt.Store, k.b.images.Registry(), set, tell)
		if err != nil && !t.IgnoreFailure(ctx, err) && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	for _, r := range set.Records {
		k.sent[r.Key] = true
	}
	for key := range set.Memos {
		k.sent[key] = true
	}
	return nil
}

// finish writes what is left, of which the build's result is edges: none, of a build that failed, which has made something all the same.
// Nothing more is written when ctx has ended. k may be nil.
func (k *keyed) finish(ctx context.Context, edges []graph.Edge) error {
	if k == nil {
		return nil
	}
	close(k.end)
	k.work.Wait()
	k.stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	step := progress.Start(k.b.sink, progress.Vertex{Digest: k.b.id("export cache by keys"), Name: "exporting results to " + k.places()})
	err := k.send(ctx, edges, func(line string, done bool) { step.Status(line, 0, 0, done) })
	step.Done(err)
	return err
}

// places are the caches as messages call them.
func (k *keyed) places() string {
	var all []string
	for _, t := range k.to {
		all = append(all, t.Place())
	}
	return strings.Join(all, ", ")
}
