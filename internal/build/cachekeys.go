package build

import (
	"context"
	"fmt"
	"sync"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
)

// keyed writes what a build makes into its caches of mode=keys, each result when it is there, beside the steps that come after.
type keyed struct {
	b    *building
	to   []*keyedTo
	stop context.CancelFunc
	wake chan struct{} // something may be there
	end  chan struct{} // closed when nothing more comes
	work sync.WaitGroup
}

// keyedTo is one of the caches.
type keyedTo struct {
	*cache.To
	sent map[string]bool // results and digests that it has
	err  error           // why nothing more is sent, until the build's end
}

// startKeyed begins, for a run that was begun. It returns nil where there is no such cache, or what was asked for is done.
func (b *building) startKeyed(ctx context.Context) *keyed {
	k := &keyed{b: b, wake: make(chan struct{}, 1), end: make(chan struct{})}
	for _, t := range b.caches.to {
		if t.Keys() {
			k.to = append(k.to, &keyedTo{To: t, sent: map[string]bool{}})
		}
	}
	if len(k.to) == 0 || b.req.Call != "" || b.done != nil {
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
			k.send(ctx)
		case <-k.end:
			return
		case <-ctx.Done():
			return
		}
	}
}

// send writes what is there by now and was not sent, to the caches that took what they were sent before.
func (k *keyed) send(ctx context.Context) {
	for _, t := range k.to {
		if t.err == nil {
			t.err = k.sendTo(ctx, t, nil, func(string, bool) {})
		}
	}
}

func (k *keyed) sendTo(ctx context.Context, t *keyedTo, edges []graph.Edge, tell cache.Tell) (err error) {
	defer func() {
		if r := recover(); r != nil { // it may be nobody's goroutine but this one's
			err = fmt.Errorf("a bug of slipway: panic: %v", r)
		}
	}()
	set, err := k.b.run.Made(ctx, t.sent, edges...)
	if err != nil || len(set.Records)+len(set.Memos) == 0 {
		return err
	}
	return t.ExportKeys(ctx, k.b.opt.Store, k.b.images.Registry(), set, k.b.req.NoCache, tell, func(key string) { t.sent[key] = true })
}

// finish writes what is left, of which the build's result is edges: none, of a build that failed, which has made something all the same. A cache
// that refused something is asked once more. Nothing more is written when ctx has ended. k may be nil.
func (k *keyed) finish(ctx context.Context, edges []graph.Edge) (failed error) {
	if k == nil {
		return nil
	}
	close(k.end)
	var steps []*progress.Step
	for _, t := range k.to {
		name := "exporting results to " + t.Place()
		steps = append(steps, progress.Start(k.b.sink, progress.Vertex{Digest: k.b.id(name), Name: name}))
	}
	k.work.Wait()
	k.stop()
	for i, t := range k.to {
		err := ctx.Err()
		if err == nil {
			err = k.sendTo(ctx, t, edges, func(line string, done bool) { steps[i].Status(line, 0, 0, done) })
		}
		steps[i].Done(err)
		if err != nil && failed == nil && !t.IgnoreFailure(ctx, err) {
			failed = err
		}
	}
	return failed
}
