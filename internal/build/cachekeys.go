package build

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
)

// keyed writes what a build makes into its caches of mode=keys, each result when it is there, beside the steps that come after.
type keyed struct {
	b    *building
	to   []*keyedTo
	stop context.CancelFunc
	wake chan struct{} // something may be there
	over chan struct{} // closed when nothing more comes
	work sync.WaitGroup

	mu     sync.Mutex
	claims []claimed
}

// claimed is what ends a claim of a step that has ended, when its result, if there is one, is there for those who wait.
type claimed struct {
	key  string
	made bool
	end  func(context.Context)
}

// keyedTo is one of the caches.
type keyedTo struct {
	*cache.To
	sent map[string]bool // keys of results and digests that it has, or has no place for
	err  error           // why nothing more is sent, until the build's end
}

// startKeyed begins, for a run that was begun. It returns nil where there is no such cache, or what was asked for is done.
func (b *building) startKeyed(ctx context.Context) *keyed {
	k := &keyed{b: b, wake: make(chan struct{}, 1), over: make(chan struct{})}
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

// stepEnded tells of a step that has ended, to whoever writes caches of this build, and of those whose context its result is.
func (b *building) stepEnded() {
	b.keyed.Load().ended()
	if !b.linked {
		return
	}
	for _, other := range b.job.all {
		if other.uses(b) {
			other.keyed.Load().ended()
		}
	}
}

// ending has a claim ended. It does not wait. k may be nil: then nobody claims anything.
func (k *keyed) ending(key string, made bool, end func(context.Context)) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.claims = append(k.claims, claimed{key, made, end})
	k.mu.Unlock()
	k.ended()
}

// endClaims ends those of results that are there, and with all the others as well.
func (k *keyed) endClaims(ctx context.Context, all bool) {
	k.mu.Lock()
	var over, left []claimed
	for _, c := range k.claims {
		if all || !c.made || !slices.ContainsFunc(k.to, func(t *keyedTo) bool { return t.err == nil && !t.sent[c.key] }) {
			over = append(over, c)
		} else {
			left = append(left, c)
		}
	}
	k.claims = left
	k.mu.Unlock()
	for _, c := range over {
		c.end(ctx)
	}
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
		case <-k.over:
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
	k.endClaims(ctx, false)
}

func (k *keyed) sendTo(ctx context.Context, t *keyedTo, edges []graph.Edge, tell cache.Tell) (err error) {
	defer func() {
		if r := recover(); r != nil { // it may be nobody's goroutine but this one's
			err = fmt.Errorf("a bug of slipway: panic: %v", r)
		}
	}()
	set, err := k.b.run.Made(ctx, t.sent, edges...)
	if err != nil || len(set.Records) == 0 {
		return err
	}
	set.Bad = k.b.caches.bad
	return t.ExportKeys(ctx, k.b.opt.Store, k.b.images.Registry(), set, tell, func(r cache.Record) {
		for memo := range r.Memos {
			t.sent[memo] = true
		}
		if !r.Only {
			t.sent[r.Key] = true
		}
	})
}

// afterFailure is how long a build that failed may go on to write what it has made, which the next one will not have to make.
var afterFailure = 10 * time.Second

// finish writes what is left, of which the build's result is edges. A cache that refused something is asked once more. Nothing more is written when
// ctx has ended. k may be nil.
func (k *keyed) finish(ctx context.Context, edges []graph.Edge) (failed error) {
	if k == nil {
		return nil
	}
	return k.end(ctx, "", func(ctx context.Context, t *keyedTo, step *progress.Step) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := k.sendTo(ctx, t, edges, func(line string, done bool) { step.Status(line, 0, 0, done) }); err != nil {
			return err
		}
		for _, i := range k.b.caches.imports() {
			if err := t.NoteUse(ctx, k.b.opt.Store, k.b.images.Registry(), i); err != nil {
				step.Status("not noted what was used: "+outbound.Clean(err.Error()), 0, 0, true)
			}
		}
		return nil
	})
}

// giveUp writes what a build that failed has made, for a bounded time. What is not there then is no failure of its own. k may be nil.
func (k *keyed) giveUp(ctx context.Context) {
	if k == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, afterFailure)
	defer cancel()
	k.end(ctx, fmt.Sprintf(" for the next build, in %s at most", afterFailure), func(ctx context.Context, t *keyedTo, step *progress.Step) error { //nolint:errcheck // it never fails
		if err := k.sendTo(ctx, t, nil, func(string, bool) {}); err != nil {
			step.Status("not all is there", 0, 0, true)
		}
		return nil
	})
}

// end ends writing beside the steps, and writes to each cache what is left. how is said of it in a display.
func (k *keyed) end(ctx context.Context, how string, write func(context.Context, *keyedTo, *progress.Step) error) (failed error) {
	close(k.over)
	var steps []*progress.Step
	for _, t := range k.to {
		name := "exporting results to " + t.Place() + how
		steps = append(steps, progress.Start(k.b.sink, progress.Vertex{Digest: k.b.id(name), Name: name}))
	}
	defer context.AfterFunc(ctx, k.stop)()
	k.work.Wait()
	k.stop()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterFailure)
		defer cancel()
		k.endClaims(ctx, true)
	}()
	for i, t := range k.to {
		err := write(ctx, t, steps[i])
		steps[i].Done(err)
		if err != nil && failed == nil && !t.IgnoreFailure(ctx, err) {
			failed = err
		}
	}
	return failed
}
