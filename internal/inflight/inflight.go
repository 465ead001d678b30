// Package inflight has work done once that several want done.
//
// The rule is that of BuildKit's flightcontrol: work goes on as long as anybody waits for it, whoever began it. Who does not
// want to wait any longer leaves at once, and the last one when the work, whose context ends then, has ended.
package inflight

import (
	"context"
	"sync"
)

// Call is work that several may wait for. It runs by itself.
type Call[T any] struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}

	// Once ended is closed:
	value T
	err   error
	quit  bool

	mu      sync.Mutex
	waiting int
	left    bool // nobody waits any longer, and the work was told so
	over    bool // the work has ended, and is told nothing any more
}

// Begin begins work, with one who waits: the caller, who must call Wait. The work's context ends with ctx, and when nobody waits
// any longer, but not when the work is done: what it gives may go on to use it. After an error there is nothing that would.
func Begin[T any](ctx context.Context, work func(context.Context) (T, error)) *Call[T] {
	c := &Call[T]{ended: make(chan struct{}), waiting: 1}
	ctx, c.cancel = context.WithCancelCause(ctx)
	go func() {
		defer close(c.ended)
		c.value, c.err = work(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.over = true
		// What came of work that was told to end may be of use to nobody, also when it is no error: its context has ended.
		c.quit = c.left || c.err != nil && ctx.Err() != nil
		if c.err != nil {
			c.cancel(c.err)
		}
	}()
	return c
}

// Join counts one more who waits, who must call Wait. It reports false when there was nobody any longer, and the work is being
// ended, or was.
func (c *Call[T]) Join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return false
	}
	c.waiting++
	return true
}

// Wait gives what the work gives. When ctx ends before, it gives the cause of that: at once, unless nobody else waits. Then it
// ends the work and returns when that has ended.
func (c *Call[T]) Wait(ctx context.Context) (value T, err error) {
	select {
	case <-c.ended:
		return c.value, c.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if c.over { // at the same time: it stays what it gives to others
		c.mu.Unlock()
		<-c.ended
		return c.value, c.err
	}
	if c.waiting--; c.waiting == 0 {
		c.left = true
		c.cancel(context.Cause(ctx))
	}
	last := c.left
	c.mu.Unlock()
	if last {
		<-c.ended
	}
	return value, context.Cause(ctx)
}

// Ended is closed when the work has ended.
func (c *Call[T]) Ended() <-chan struct{} { return c.ended }

// Over reports whether the work has ended.
func (c *Call[T]) Over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// Result is what the work gave, which has ended. quit says that it is that of work that was ended: an error tells nothing of what it
// would have given, and a value may go on to use a context that has ended.
func (c *Call[T]) Result() (value T, err error, quit bool) { //nolint:revive // quit is about the others
	return c.value, c.err, c.quit
}

// Group has work with the same key, that is wanted at the same time, done once. Nobody gets what came of work that was over before he
// asked. The zero value is ready.
type Group[T any] struct {
	mu    sync.Mutex
	calls map[string]*Call[T]
}

// Do gives what the work gives. The work's context has the values of ctx of who began it.
func (g *Group[T]) Do(ctx context.Context, key string, work func(context.Context) (T, error)) (value T, err error) {
	for {
		if ctx.Err() != nil {
			return value, context.Cause(ctx)
		}
		c, joined := g.join(ctx, key, work)
		if joined {
			return c.Wait(ctx)
		}
		select { // nobody waits for it any longer: it ends first
		case <-c.Ended():
		case <-ctx.Done():
		}
	}
}

func (g *Group[T]) join(ctx context.Context, key string, work func(context.Context) (T, error)) (c *Call[T], joined bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c = g.calls[key]; c != nil && !c.Over() {
		return c, c.Join()
	}
	if g.calls == nil {
		g.calls = map[string]*Call[T]{}
	}
	c = Begin(context.WithoutCancel(ctx), func(ctx context.Context) (T, error) {
		defer func() { // who asks later begins anew
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.calls[key] == c {
				delete(g.calls, key)
			}
		}()
		return work(ctx)
	})
	g.calls[key] = c
	return c, true
}
