package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf is a registry's repository in memory, with a clock of its own.
type shelf struct {
	named
	clock func() time.Time // nil: it has none

	mu    sync.Mutex
	all   map[string][]byte
	wrote int
	fails error
}

func (s *shelf) find(ctx context.Context, name string) ([]byte, error) {
	raw, _, err := s.findAt(ctx, name)
	return raw, err
}

func (s *shelf) findAt(_ context.Context, name string) (raw []byte, now time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clock != nil {
		now = s.clock().Truncate(time.Second)
	}
	raw, ok := s.all[name]
	if !ok {
		err = errdefs.ErrNotFound
	}
	if s.fails != nil {
		err = s.fails
	}
	return raw, now, err
}

func (s *shelf) put(context.Context, ocispec.Descriptor, opener) error { return nil }

func (s *shelf) enter(_ context.Context, name string, _ ocispec.Descriptor, manifest []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = manifest
	s.wrote++
	return nil
}

// history has a step have taken so long, with claims of whoever.
func (s *shelf) history(took time.Duration, all ...claim) {
	data, _ := json.Marshal(all)
	manifest, _ := json.Marshal(ocispec.Manifest{ArtifactType: artifactClaims, Annotations: map[string]string{annotationTook: took.String(), annotationClaims: string(data)}})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[stepPrefix+does] = manifest
}

// machine is one that uses it.
func (s *shelf) machine(t *testing.T, name string, wait time.Duration) *Turns {
	t.Helper()
	i := &Import{from: &byKey{named: s}, loaded: make(chan struct{}), wait: wait}
	if err := i.Load(t.Context(), func(string) {}, func(err error) { t.Errorf("%s: %v", name, err) }); err != nil {
		t.Fatal(err)
	}
	return &Turns{i: i, from: i.from.(*byKey), to: s, me: name, patience: patience{left: wait}}
}

const does = "d0e5"

// take takes the turn of the key of a letter.
func (t *Turns) take(ctx context.Context, key string) (*Turn, time.Duration) {
	began := time.Now()
	turn := t.Take(ctx, Step{keyOf(key), does}, func(time.Duration) func() { return func() {} })
	return turn, time.Since(began)
}

// inBubble runs a test without and with a clock of the registry, which is hours wrong.
func inBubble(t *testing.T, test func(*testing.T, *shelf)) {
	for _, clock := range []func() time.Time{nil, func() time.Time { return time.Now().Add(-7 * time.Hour) }} {
		t.Run(fmt.Sprint("clock ", clock != nil), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, &shelf{all: map[string][]byte{}, clock: clock}) })
		})
	}
}

// A step that took long is claimed, and others wait for its result; how long it took is known then. One that nobody knows is claimed when it has
// taken long, and a cheap one never: nobody waits for it.
func TestClaims(t *testing.T) {
	inBubble(t, func(t *testing.T, s *shelf) {
		a, b := s.machine(t, "a", time.Hour), s.machine(t, "b", time.Hour)
		unknown, waited := a.take(t.Context(), "a")
		if waited > 0 || s.wrote > 0 {
			t.Errorf("of a step that is not known it was waited for %s, and written %d times", waited, s.wrote)
		}
		time.Sleep(expensive + time.Second)
		go func() {
			time.Sleep(5 * time.Minute)
			s.enter(t.Context(), resultPrefix+keyOf("a"), ocispec.Descriptor{}, entryOf(t, []string{keyOf("a")}, nil))
			unknown.End(t.Context(), 5*time.Minute)
		}()
		s.history(4*time.Minute, readOf(t, s)...) // as it was another time
		other, waited := b.take(t.Context(), "a")
		if !other.There || waited < 4*time.Minute || waited > 5*time.Minute+lastPoll {
			t.Errorf("the second one waited for %s: there %v", waited, other.There)
		}
		if f, ok := b.i.Result(t.Context(), keyOf("a")); !ok || len(f.Outputs) != 1 {
			t.Error("it has no result")
		}
		other.End(t.Context(), 0)
		synctest.Wait()
		if c, err := readClaims(t.Context(), s, does); err != nil || c.took != 5*time.Minute || len(c.all) > 0 {
			t.Errorf("at the end there is %+v, %v", c, err)
		}

		s.history(expensive-1, claim{Key: keyOf("b"), Holder: "x"})
		wrote := s.wrote
		cheap, waited := b.take(t.Context(), "b")
		cheap.End(t.Context(), time.Second)
		if waited > 0 || s.wrote > wrote {
			t.Errorf("for a cheap step it was waited for %s, and written", waited)
		}
	})
}

func readOf(t *testing.T, s *shelf) []claim {
	t.Helper()
	c, err := readClaims(t.Context(), s, does)
	if err != nil || len(c.all) == 0 {
		t.Fatalf("nobody claims anything: %v", err)
	}
	return c.all
}

// The claim of one who is gone lapses. Those who have waited for it go on, one of them with a claim, for whom the others wait.
func TestClaimLapses(t *testing.T) {
	inBubble(t, func(t *testing.T, s *shelf) {
		s.history(10 * time.Minute)
		life, dies := context.WithCancel(t.Context())
		gone := s.machine(t, "gone", time.Hour)
		gone.i.life = life
		if _, waited := gone.take(t.Context(), "a"); waited > 0 || s.wrote != 1 {
			t.Fatal("it is not claimed")
		}
		time.Sleep(3 * lease) // it renews it
		var runs, there atomic.Int32
		var all sync.WaitGroup
		began := time.Now()
		for n := range 4 {
			m := s.machine(t, fmt.Sprint(n), time.Hour)
			all.Go(func() {
				time.Sleep(time.Duration(n) * 100 * time.Millisecond)
				turn, waited := m.take(t.Context(), "a")
				if waited < 2*lease {
					t.Errorf("%d waited for %s", n, waited)
				}
				if turn.There {
					there.Add(1)
					turn.End(t.Context(), 0)
					return
				}
				runs.Add(1)
				if lapse := time.Since(began) - 2*lease; lapse > lease+2*lastPoll {
					t.Errorf("it lapsed after %s", lapse)
				}
				time.Sleep(time.Minute)
				s.enter(t.Context(), resultPrefix+keyOf("a"), ocispec.Descriptor{}, entryOf(t, []string{keyOf("a")}, nil))
				turn.End(t.Context(), time.Minute)
			})
		}
		time.Sleep(2 * lease)
		dies()
		all.Wait()
		if runs.Load() != 1 || there.Load() != 3 {
			t.Errorf("%d ran it, %d waited for that", runs.Load(), there.Load())
		}
	})
}

// With the registry's clock a claim that has lapsed long ago holds up nobody, whatever other clocks say; without it, for as long as a claim holds.
func TestOldClaim(t *testing.T) {
	inBubble(t, func(t *testing.T, s *shelf) {
		old := claim{Key: keyOf("a"), Holder: "gone"}
		most := lease + lastPoll
		if s.clock != nil {
			old.At, most = s.clock().Add(-time.Hour), 0
		}
		s.history(time.Minute, old)
		if _, waited := s.machine(t, "b", time.Hour).take(t.Context(), "a"); waited > most {
			t.Errorf("it waited for %s", waited)
		}
	})
}

// Who writes what he wants into a cache delays a build by a bound: for each step by what it is said to have taken, all in all by wait=.
func TestHostileClaims(t *testing.T) {
	inBubble(t, func(t *testing.T, s *shelf) {
		stop := false
		var mu sync.Mutex
		go func() {
			for n := 1; ; n++ {
				mu.Lock()
				over := stop
				mu.Unlock()
				if over {
					return
				}
				var all []claim
				for _, key := range []string{"a", "b", "c"} {
					c := claim{Key: keyOf(key), Holder: "x", Renewed: n}
					if s.clock != nil {
						c.At = s.clock().Add(1000 * time.Hour)
					}
					all = append(all, c)
				}
				s.history(1000*time.Hour, all...)
				time.Sleep(time.Second)
			}
		}()
		time.Sleep(2 * time.Second)
		m, began := s.machine(t, "m", 10*time.Minute), time.Now()
		for _, key := range []string{"a", "b", "c"} {
			turn, _ := m.take(t.Context(), key)
			turn.End(t.Context(), 0)
		}
		if waited := time.Since(began); waited > 10*time.Minute+time.Second {
			t.Errorf("it waited for %s", waited)
		}
		mu.Lock()
		stop = true
		mu.Unlock()
		time.Sleep(2 * time.Second)

		for name, raw := range map[string][]byte{
			"no JSON": []byte("no"), "another manifest": []byte(`{"artifactType":"x"}`), "no claims": []byte(`{"artifactType":"` + artifactClaims + `","annotations":{"` + annotationClaims + `":"[[[["}}`),
			"negative": []byte(`{"artifactType":"` + artifactClaims + `","annotations":{"` + annotationTook + `":"-5h"}}`),
		} {
			s.all[stepPrefix+does] = raw
			if c, err := readClaims(t.Context(), s, does); err != nil || c.took != 0 || len(c.all) > 0 {
				t.Errorf("%s: %+v, %v", name, c, err)
			}
		}
		many := make([]claim, 10_000)
		for n := range many {
			many[n] = claim{Key: keyOf("e"), Holder: strings.Repeat("x", n%100)}
		}
		s.history(time.Hour, many...)
		if c, err := readClaims(t.Context(), s, does); err != nil || len(c.all) != maxClaims {
			t.Errorf("many: %d, %v", len(c.all), err)
		}
	})
}

// Two builds of which each waits for a step that the other one is at go on: who waits holds up nothing. A cache that fails claims nothing.
func TestClaimsOfEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, s *shelf) {
		s.history(time.Minute)
		a, b := s.machine(t, "a", time.Hour), s.machine(t, "b", time.Hour)
		began := time.Now()
		one, _ := a.take(t.Context(), "a")
		two, _ := b.take(t.Context(), "b")
		var both sync.WaitGroup
		finish := func(turn *Turn, key string) {
			time.Sleep(time.Minute)
			s.enter(t.Context(), resultPrefix+keyOf(key), ocispec.Descriptor{}, entryOf(t, []string{keyOf(key)}, nil))
			turn.End(t.Context(), time.Minute)
		}
		wants := func(m *Turns, key string) {
			if turn, _ := m.take(t.Context(), key); !turn.There {
				t.Errorf("%s ran %s as well", m.me, key)
			}
		}
		both.Go(func() { finish(one, "a") })
		both.Go(func() { finish(two, "b") })
		both.Go(func() { wants(a, "b") })
		both.Go(func() { wants(b, "a") })
		both.Wait()
		if took := time.Since(began); took > time.Minute+2*lastPoll {
			t.Errorf("it took %s", took)
		}
		s.fails = context.DeadlineExceeded
		if turn, waited := a.take(t.Context(), "c"); turn.There || waited > 0 {
			t.Errorf("of a cache that fails it waited for %s", waited)
		}
		if !a.isOver() {
			t.Error("it is asked again")
		}
	})
}
