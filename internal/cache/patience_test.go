package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// slow has manifests, and takes its time for each; the time of a synctest bubble.
type slow struct {
	named
	takes time.Duration
	first time.Duration // for the first answer

	mu        sync.Mutex
	all       map[string][]byte
	asked     int
	now, most int // that are asked for at the same time
}

func (s *slow) find(ctx context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	d := s.takes
	if s.asked == 0 {
		d = s.first
	}
	s.asked++
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if raw, ok := s.all[name]; ok {
		return raw, nil
	}
	return nil, errdefs.ErrNotFound
}

func keyNumber(n int) string { return digest.FromString(fmt.Sprint(n)).Encoded() }

// loaded is an import of it.
func (s *slow) loaded(t *testing.T) (i *Import, told *[]error, err error) {
	told = &[]error{}
	i = &Import{from: &byKey{named: s}, loaded: make(chan struct{})}
	err = i.Load(t.Context(), func(string) {}, func(err error) { *told = append(*told, err) })
	return i, told, err
}

// A cache that takes its time holds up a build for a bounded time, and says once that it is not asked any more.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name         string
		first, takes time.Duration
		at           time.Duration // when it is given up
	}{
		{"no first answer", time.Hour, 0, firstAnswer},
		{"no second answer", time.Second, time.Hour, time.Second + oneAnswer},
		{"slow answers", time.Second, 4 * time.Second, time.Second + allowance},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				i, told, err := (&slow{first: c.first, takes: c.takes}).loaded(t)
				for n := range 100 {
					i.Result(t.Context(), keyNumber(n))
				}
				if got := time.Since(began); got != c.at {
					t.Errorf("it took %s, want %s", got, c.at)
				}
				for _, e := range *told {
					err = errors.Join(err, e)
				}
				if !errors.Is(err, errSlow) || len(*told) > 1 {
					t.Errorf("it was told %v", err)
				}
			})
		})
	}
}

// One that is slow is worth what it saves, and what it says of that counts up to a limit.
func TestPatienceGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience{left: 10 * time.Second}
		p.grow(time.Second)
		began := time.Now()
		sleeps := func(ctx context.Context) {
			select {
			case <-time.After(6 * time.Second):
			case <-ctx.Done():
			}
		}
		var both sync.WaitGroup
		for range 2 { // at the same time
			both.Go(func() {
				if p.wait(t.Context(), time.Minute, sleeps) {
					t.Error("patience was over early")
				}
			})
		}
		both.Wait()
		if !p.wait(t.Context(), time.Minute, sleeps) || time.Since(began) != 11*time.Second {
			t.Errorf("it was over after %s", time.Since(began))
		}
	})
}

// Keys are asked for ahead, a few at a time.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{takes: time.Second}
		i, told, err := s.loaded(t)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var keys []string
		for n := range 3 * maxAhead {
			keys = append(keys, keyNumber(n))
		}
		i.Ahead(keys)
		for _, key := range keys {
			i.Result(t.Context(), key)
		}
		if got := time.Since(began); got != 3*time.Second || s.most != maxAhead || s.asked != 1+len(keys) || len(*told) > 0 {
			t.Errorf("it took %s, asked %d times, %d at once, told %v", got, s.asked, s.most, *told)
		}
	})
}
