package cli

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestTasks: a task begins when those that it needs are done, and has a place only then; the place of one that ends is another one's at once.
func TestTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		began, one := time.Now(), make(places, 1)
		lasts := func(label string, seconds time.Duration, needs ...*task) *task {
			return &task{label: label, needs: needs, do: func(ctx context.Context) error {
				return one.in(ctx, func() error {
					mu.Lock()
					order = append(order, label+" at "+time.Since(began).String())
					mu.Unlock()
					time.Sleep(seconds * time.Second)
					return nil
				})
			}}
		}
		first := lasts("first", 3)
		all := []*task{lasts("last", 1, first), first}
		all = append(all, lasts("very last", 1, all...))
		if err := carryOut(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		if want := []string{"first at 0s", "last at 3s", "very last at 4s"}; !slices.Equal(order, want) {
			t.Errorf("got %q, want %q", order, want)
		}
	})
}

// TestTasksBound: there are no more at the same time than places, whatever they belong to.
func TestTasksBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most, began := 0, 0, time.Now()
		b, err := (&onFlags{workers: 3}).bounds(maxJobs)
		if err != nil {
			t.Fatal(err)
		}
		var builds []*task
		for range 4 {
			builds = append(builds, &task{do: func(ctx context.Context) error {
				var parts []*task
				for range 3 {
					parts = append(parts, &task{do: func(ctx context.Context) error {
						return b.jobs.in(ctx, func() error {
							mu.Lock()
							now++
							most = max(most, now)
							mu.Unlock()
							time.Sleep(time.Second)
							mu.Lock()
							now--
							mu.Unlock()
							return nil
						})
					}})
				}
				return carryOut(ctx, parts)
			}})
		}
		if err := carryOut(t.Context(), builds); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); most != 3 || took != 4*time.Second {
			t.Errorf("%d at the same time, in %s", most, took)
		}
	})
}

// TestTasksFail: the first one that fails ends the others, and those that need it never begin.
func TestTasksFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("no")
		fails := &task{do: func(context.Context) error { time.Sleep(time.Second); return why }}
		ended := false
		waits := &task{do: func(ctx context.Context) error { <-ctx.Done(); ended = true; return context.Cause(ctx) }}
		never := &task{needs: []*task{fails}, do: func(context.Context) error { t.Error("it began"); return nil }}
		if err := carryOut(t.Context(), []*task{never, waits, fails}); !errors.Is(err, why) || !ended {
			t.Errorf("error %v, the other one ended: %v", err, ended)
		}
	})
	if _, err := (&onFlags{workers: -1}).bounds(1); err == nil {
		t.Error("-1 Jobs are a bound")
	}
}
