package engine

import (
	"context"
	"sync"

	"github.com/slipway-build/slipway/internal/inflight"
)

// call is work that runs may wait for: see [inflight.Call].
type call[T any] struct {
	*inflight.Call[T]
	by *Run // who began it
}

// begin begins work, with one who waits. The work's context has the values of ctx, and does not end with it, but with life.
func begin[T any](ctx, life context.Context, by *Run, work func(context.Context) (T, error)) *call[T] {
	return &call[T]{inflight.Begin(within(life, ctx), work), by}
}

// failed reports whether the work has ended without anything that others could have.
func (c *call[T]) failed() bool {
	if !c.Over() {
		return false
	}
	_, err, quit := c.Result()
	return err != nil || quit
}

// future is a value that is computed when somebody asks for it, once for all who do. A value is kept, and so is an error; an
// end that nobody waited for is not: who asks next begins anew.
type future[T any] struct {
	// common says that runs have the future in common. An error is then that of the run which began: it is not kept, and
	// a run of another command that waited tries by itself.
	common bool

	mu    sync.Mutex
	call  *call[T] // under way; nil
	done  bool     // value and err are what there is, and stay
	value T
	err   error
}

// do gives the value. work computes it on behalf of the run r; see [begin] for the contexts.
func (f *future[T]) do(ctx, life context.Context, r *Run, work func(context.Context) (T, error)) (value T, err error) {
	for {
		if ctx.Err() != nil {
			return value, context.Cause(ctx)
		}
		c, joined := f.enter(ctx, life, r, work)
		switch {
		case c == nil:
			return f.value, f.err
		case !joined: // it ends first
			select {
			case <-c.Ended():
			case <-ctx.Done():
			}
			f.settle(c)
			continue
		}
		value, err = c.Wait(ctx)
		f.settle(c)
		if err != nil && f.common && c.by.apart(r) && ctx.Err() == nil {
			continue
		}
		return value, err
	}
}

// enter begins the work, or joins those who wait for it. It returns nil when the value is there.
func (f *future[T]) enter(ctx, life context.Context, r *Run, work func(context.Context) (T, error)) (c *call[T], joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return nil, false
	}
	if f.call == nil {
		f.call = begin(ctx, life, r, work)
		return f.call, true
	}
	return f.call, f.call.Join()
}

// settle keeps what a call gave that has ended.
func (f *future[T]) settle(c *call[T]) {
	if !c.Over() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.call != c {
		return
	}
	f.call = nil
	if value, err, quit := c.Result(); !quit && (err == nil || !f.common) {
		f.done, f.value, f.err = true, value, err
	}
}

// has reports whether the value, or an error, is there.
func (f *future[T]) has() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// peek gives the value if it is there.
func (f *future[T]) peek() (value T, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value, f.done && f.err == nil
}

// scoped is a context with the values of another one.
type scoped struct {
	context.Context
	values context.Context
}

func (s scoped) Value(key any) any {
	if v := s.values.Value(key); v != nil {
		return v
	}
	return s.Context.Value(key)
}

// within is a context that ends with life, with the values of ctx: those of the evaluation that it is of, so that futures which
// ask futures make no chain.
func within(life, ctx context.Context) context.Context {
	if e := evaluationOf(ctx); e != nil {
		return scoped{life, e.values}
	}
	return scoped{life, context.WithoutCancel(ctx)}
}
