package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

var (
	errEnough = errors.New("enough")
	errBroken = errors.New("broken")
)

// asked asks a future for a number and gives the answer's channel.
func asked(ctx context.Context, f *future[int], r *Run, work func(context.Context) (int, error)) chan error {
	got := make(chan error, 1)
	go func() {
		_, err := f.do(ctx, context.Background(), r, work)
		got <- err
	}()
	return got
}

// The work goes on as long as somebody waits, whoever began it, and is ended with the last who does.
func TestFutureEndsWithTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f future[int]
		begun := 0
		var ended error
		work := func(ctx context.Context) (int, error) {
			begun++
			<-ctx.Done()
			ended = context.Cause(ctx)
			return 0, ended
		}
		first, endFirst := context.WithCancelCause(t.Context())
		second, endSecond := context.WithCancelCause(t.Context())
		a := asked(first, &f, nil, work)
		synctest.Wait()
		b := asked(second, &f, nil, work)
		synctest.Wait()
		endFirst(errEnough)
		if err := <-a; err != errEnough || ended != nil {
			t.Errorf("the first got %v, the work %v", err, ended)
		}
		endSecond(errBroken)
		if err := <-b; err != errBroken || ended != errBroken || begun != 1 {
			t.Errorf("the second got %v, the work %v; it was begun %d times", err, ended, begun)
		}
		v, err := f.do(t.Context(), t.Context(), nil, func(context.Context) (int, error) { return 7, nil })
		if v != 7 || err != nil {
			t.Errorf("who asks next gets %d, %v", v, err)
		}
	})
}

// Who asks while the work is being ended waits for that, and begins anew.
func TestFutureThatIsBeingEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f future[int]
		tidy := make(chan struct{})
		running := 0
		work := func(ctx context.Context) (int, error) {
			if running++; running > 1 {
				t.Error("it is done twice at a time")
			}
			defer func() { running-- }()
			<-ctx.Done()
			<-tidy
			return 0, context.Cause(ctx)
		}
		ctx, end := context.WithCancelCause(t.Context())
		a := asked(ctx, &f, nil, work)
		synctest.Wait()
		end(errEnough)
		synctest.Wait()
		b := asked(t.Context(), &f, nil, func(context.Context) (int, error) {
			if running > 0 {
				t.Error("it is done twice at a time")
			}
			return 0, nil
		})
		synctest.Wait()
		close(tidy)
		if err := <-a; err != errEnough {
			t.Errorf("the first got %v", err)
		}
		if err := <-b; err != nil {
			t.Errorf("the second got %v", err)
		}
	})
}

// What comes of work that nobody waited for is not kept, also when it comes in time: it may go on to use a context that has ended.
func TestFutureThatNobodyWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f future[int]
		ctx, end := context.WithCancelCause(t.Context())
		a := asked(ctx, &f, nil, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 7, nil
		})
		synctest.Wait()
		end(errEnough)
		if err := <-a; err != errEnough {
			t.Errorf("the first got %v", err)
		}
		var of context.Context
		v, err := f.do(t.Context(), context.Background(), nil, func(ctx context.Context) (int, error) {
			of = ctx
			return 8, nil
		})
		if v != 8 || err != nil || of.Err() != nil {
			t.Errorf("who asks next gets %d, %v", v, err)
		}
	})
}

// An error of a run's own future is kept; one of a future that runs have in common is not, and a run of another command that has
// waited tries by itself.
func TestFutureErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		one, two := e.NewRun(t.Context(), RunOptions{}), e.NewRun(t.Context(), RunOptions{})
		for _, common := range []bool{false, true} {
			f := future[int]{common: common}
			times, fail := 0, make(chan struct{})
			work := func(context.Context) (int, error) {
				times++
				<-fail
				return 0, errBroken
			}
			a := asked(t.Context(), &f, one, work)
			synctest.Wait()
			b := asked(t.Context(), &f, two, work)
			synctest.Wait()
			close(fail)
			if err := errors.Join(<-a, <-b); !errors.Is(err, errBroken) {
				t.Errorf("error is %v", err)
			}
			want := 1
			if common {
				want = 2
			}
			if times != want || f.has() == common {
				t.Errorf("in common %t: it was done %d times, and kept: %t", common, times, f.has())
			}
		}
	})
}

// The values of who began come along, and its end does not.
func TestFutureContext(t *testing.T) {
	type key struct{}
	var f future[int]
	ctx := context.WithValue(t.Context(), key{}, "value")
	life, end := context.WithCancelCause(context.Background())
	var of context.Context
	if _, err := f.do(ctx, life, nil, func(ctx context.Context) (int, error) {
		of = ctx
		return 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	if of.Value(key{}) != "value" || of.Err() != nil {
		t.Errorf("value %v, error %v", of.Value(key{}), of.Err())
	}
	end(errEnough)
	if <-of.Done(); context.Cause(of) != errEnough {
		t.Errorf("the cause is %v", context.Cause(of))
	}
}
