package inflight

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// One caller's leaving does not disturb the others.
func TestGroupLeave(t *testing.T) {
	var f Group[int]
	release := make(chan struct{})
	fn := func(ctx context.Context) (int, error) {
		select {
		case <-release:
			return 7, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	first, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := f.Do(first, "k", fn)
		left <- err
	}()
	waiting(&f, "k", 1)
	stayed := make(chan int)
	go func() {
		n, _ := f.Do(t.Context(), "k", fn)
		stayed <- n
	}()
	waiting(&f, "k", 2)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	close(release)
	if n := <-stayed; n != 7 {
		t.Errorf("the one who stayed got %d", n)
	}
}

// Who leaves when the work is done already does not end the context of what it gave.
func TestCallIsOver(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for range 100 {
		var of context.Context
		c := Begin(t.Context(), func(ctx context.Context) (int, error) {
			of = ctx
			return 7, nil
		})
		<-c.Ended()
		_, _ = c.Wait(ctx)
		if v, err, quit := c.Result(); v != 7 || err != nil || quit || of.Err() != nil || !c.Join() {
			t.Fatalf("it gave %d, %v; quit: %t, its context: %v", v, err, quit, of.Err())
		}
	}
}

// An error leaves nothing with the context that the work was begun with.
func TestCallThatFails(t *testing.T) {
	var of context.Context
	c := Begin(t.Context(), func(ctx context.Context) (int, error) {
		of = ctx
		return 0, errors.New("broken")
	})
	_, err := c.Wait(t.Context())
	if _, _, quit := c.Result(); err == nil || quit || of.Err() == nil {
		t.Errorf("error %v; quit: %t, its context: %v", err, quit, of.Err())
	}
}

// When the last caller has left, nothing runs on.
func TestGroupCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Group[int]
		var ended atomic.Bool
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := f.Do(ctx, "k", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			time.Sleep(time.Minute)
			ended.Store(true)
			return 0, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || !ended.Load() {
			t.Errorf("got %v, ended: %v", err, ended.Load())
		}
	})
}

// A result is for those who asked while it was made.
func TestGroupNotStale(t *testing.T) {
	var f Group[int]
	for i := range 2000 {
		n, err := f.Do(t.Context(), "k", func(context.Context) (int, error) { return i, nil })
		if n != i || err != nil {
			t.Fatalf("call %d got %d, %v", i, n, err)
		}
	}
}

// waiting returns when n callers wait for a key.
func waiting(f *Group[int], key string, n int) {
	for {
		f.mu.Lock()
		c := f.calls[key]
		f.mu.Unlock()
		ok := false
		if c != nil {
			c.mu.Lock()
			ok = c.waiting == n
			c.mu.Unlock()
		}
		if ok {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
