package imagesource

import (
	"context"
	"sync"
)

// flight does calls with the same key that are made at the same time once. The function runs
// on until nobody waits for it any more; then it is cancelled, and the last caller returns
// when it has ended. Unlike BuildKit's flightcontrol, a call never gets the result of one that
// was over before it began, and unlike x/sync's singleflight, one caller can leave.
type flight[T any] struct {
	mu    sync.Mutex
	calls map[string]*flightCall[T]
}

type flightCall[T any] struct {
	waiters int // guarded by flight.mu
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when value and err are set
	value   T
	err     error
}

// do returns fn's results, or the cause of ctx's end. fn gets the values of the first
// caller's context.
func (f *flight[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	c := f.calls[key]
	if c == nil {
		c = f.start(ctx, key, fn)
	}
	c.waiters++
	f.mu.Unlock()

	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	c.waiters--
	last := c.waiters == 0
	if last {
		c.cancel(context.Cause(ctx))
		f.remove(key, c)
	}
	f.mu.Unlock()
	if last {
		<-c.done
	}
	var zero T
	return zero, context.Cause(ctx)
}

// start begins a call; f.mu is held.
func (f *flight[T]) start(ctx context.Context, key string, fn func(context.Context) (T, error)) *flightCall[T] {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &flightCall[T]{cancel: cancel, done: make(chan struct{})}
	if f.calls == nil {
		f.calls = map[string]*flightCall[T]{}
	}
	f.calls[key] = c
	go func() {
		defer cancel(nil)
		c.value, c.err = fn(ctx)
		f.mu.Lock()
		f.remove(key, c)
		f.mu.Unlock()
		close(c.done)
	}()
	return c
}

// remove makes later calls start anew; f.mu is held.
func (f *flight[T]) remove(key string, c *flightCall[T]) {
	if f.calls[key] == c {
		delete(f.calls, key)
	}
}
