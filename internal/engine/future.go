package engine

import (
	"context"
	"sync"
)

// call is work that several may wait for. It runs by itself, under a context that ends when nobody waits any longer.
type call[T any] struct {
	by     *Run // who began it
	cancel context.CancelCauseFunc
	ended  chan struct{}

	// Once ended is closed:
	value T
	err   error
	quit  bool // err says that it was ended, and nothing of what it would have given

	mu      sync.Mutex
	waiting int
	left    bool // nobody waits any longer
}

// begin begins work, with one who waits: the caller, who must call wait. The work's context has the values of ctx, and does
// not end with it, but with life. What the work leaves behind may go on to use it until then.
func begin[T any](ctx, life context.Context, by *Run, work func(context.Context) (T, error)) *call[T] {
	c := &call[T]{by: by, ended: make(chan struct{}), waiting: 1}
	ctx, c.cancel = context.WithCancelCause(within(life, ctx))
	go func() {
		defer close(c.ended)
		c.value, c.err = work(ctx)
		c.quit = c.err != nil && ctx.Err() != nil
	}()
	return c
}

// join counts one more who waits, who must call wait. It reports false when there was nobody any longer, and the work is being
// ended, or was.
func (c *call[T]) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left && !(c.over() && c.err == nil) {
		return false
	}
	c.waiting++
	return true
}

// wait gives what the work gives. When ctx ends before, it gives the cause of that: at once, unless nobody else waits. Then it
// ends the work and returns when that has ended.
func (c *call[T]) wait(ctx context.Context) (value T, err error) {
	select {
	case <-c.ended:
		return c.value, c.err
	case <-ctx.Done():
	}
	c.mu.Lock()
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

// over reports whether the work has ended.
func (c *call[T]) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
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
			case <-c.ended:
			case <-ctx.Done():
			}
			f.settle(c)
			continue
		}
		value, err = c.wait(ctx)
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
	return f.call, f.call.join()
}

// settle keeps what a call gave that has ended.
func (f *future[T]) settle(c *call[T]) {
	if !c.over() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.call != c {
		return
	}
	f.call = nil
	if c.err == nil || !c.quit && !f.common {
		f.done, f.value, f.err = true, c.value, c.err
	}
}

// has reports whether the value, or an error, is there.
func (f *future[T]) has() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
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
