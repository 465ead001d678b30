package build

import (
	"context"
	"fmt"
	"time"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
)

// turns are the claims of a build in its caches of mode=keys.
type turns struct {
	b   *building
	all []*cache.Turns
}

// turns are none where no cache has any.
func (b *building) turns() (engine.Turns, error) {
	t := &turns{b: b}
	for _, i := range b.caches.from {
		one, err := i.Turns(b.opt.Store, b.images.Registry(), b.caches.to)
		if err != nil {
			return nil, err
		}
		if one != nil {
			t.all = append(t.all, one)
		}
	}
	if len(t.all) == 0 {
		return nil, nil
	}
	return t, nil
}

// turn is one of a step in each of the caches.
type turn struct {
	b     *building
	key   string
	there bool
	all   []*cache.Turn
}

// Take implements [engine.Turns].
func (t *turns) Take(ctx context.Context, key, does, name string) engine.Turn {
	one := &turn{b: t.b, key: key}
	step := cache.Step{Key: key, Does: cache.StepName([]byte(does))}
	for _, c := range t.all {
		taken := c.Take(ctx, step, func(most time.Duration) func() {
			name := fmt.Sprintf("waiting for another machine, %s at most: %s", most.Round(time.Second), outbound.Clean(name))
			waits := progress.Start(t.b.sink, progress.Vertex{Digest: t.b.id(name), Name: name})
			return func() { waits.Done(nil) }
		})
		one.all = append(one.all, taken)
		if one.there = taken.There; one.there {
			break
		}
	}
	return one
}

func (t *turn) There() bool { return t.there }

// Ended ends the turn when the result is there for others.
func (t *turn) Ended(took time.Duration, err error) {
	if err != nil {
		took = 0
	}
	t.b.keyed.Load().ending(t.key, err == nil, func(ctx context.Context) {
		for _, one := range t.all {
			one.End(ctx, took)
		}
	})
}
