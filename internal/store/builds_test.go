package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// ended leaves the record of a build that ended some time ago, and returns its name.
func ended(t *testing.T, s *Store, n int, ago time.Duration) string {
	t.Helper()
	name := fmt.Sprintf("2026-%02d", n)
	b, err := s.NewBuild(name)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.Path, "log"), []byte(strings.Repeat("x", 10_000)), 0o600))
	must(t, b.Close())
	when := time.Now().Add(-ago)
	must(t, os.Chtimes(b.Path, when, when))
	return name
}

func wantBuilds(t *testing.T, s *Store, want ...string) {
	t.Helper()
	all, err := s.Builds()
	must(t, err)
	var have []string
	for _, r := range slices.Backward(all) {
		have = append(have, r.Name)
	}
	if !slices.Equal(have, want) {
		t.Errorf("records of builds are %q, want %q", have, want)
	}
}

// Records of builds go when they are many and old, or too large; never one of a build that runs, or that is pinned.
func TestPruneBuilds(t *testing.T) {
	s := newStore(t)
	prune := func(h History) { t.Helper(); _, _, err := s.PruneBuilds(h); must(t, err) }
	pin := ended(t, s, 1, 100*time.Hour)
	must(t, os.WriteFile(filepath.Join(s.root, "builds", pin, pinned), nil, 0o600))
	must(t, os.Chtimes(filepath.Join(s.root, "builds", pin), time.Time{}, time.Now().Add(-100*time.Hour)))
	running, err := s.NewBuild("2026-02")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(running.Path, "log"), []byte("x"), 0o600))
	must(t, os.Chtimes(running.Path, time.Time{}, time.Now().Add(-90*time.Hour)))
	a, b, c, d := ended(t, s, 3, 80*time.Hour), ended(t, s, 4, 70*time.Hour), ended(t, s, 5, 60*time.Hour), ended(t, s, 6, time.Hour)
	prune(DefaultHistory())
	wantBuilds(t, s, pin, "2026-02", a, b, c, d)
	prune(History{MaxEntries: 3, MaxAge: 75 * time.Hour})
	wantBuilds(t, s, pin, "2026-02", b, c, d)
	prune(History{MaxEntries: 2, MaxAge: 75 * time.Hour}) // not old enough
	wantBuilds(t, s, pin, "2026-02", b, c, d)
	prune(History{MaxEntries: 10, MaxAge: 75 * time.Hour, MaxSize: Space{Bytes: 30_000}})
	wantBuilds(t, s, pin, "2026-02", c, d)
	prune(History{MaxEntries: 10, MaxSize: Space{Bytes: 1}}) // the newest stays
	wantBuilds(t, s, pin, "2026-02", d)
	all, err := s.Builds()
	must(t, err)
	if r := all[1]; !r.Running || r.Pinned || r.Size == 0 || !all[2].Pinned || all[2].Running || all[0].Running {
		t.Errorf("the records are %+v", all)
	}
	prune(History{})
	wantBuilds(t, s, pin, "2026-02")
	must(t, running.Close())
	prune(History{})
	wantBuilds(t, s, pin)

	// A clock that went wrong keeps nothing for ever.
	late := ended(t, s, 7, -1000*time.Hour)
	prune(History{MaxAge: time.Hour})
	wantBuilds(t, s, pin, late)
	if fi, err := os.Stat(filepath.Join(s.root, "builds", late)); err != nil || fi.ModTime().After(time.Now()) {
		t.Errorf("its time is %v, %v", fi.ModTime(), err)
	}
	wantClean(t, s)
}

// Records of builds go when a store is tidied, also when nothing else was written, and when no cache is to go.
func TestTidyBuilds(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	name := ended(t, s, 1, time.Hour)
	keep := Keep{History: &History{}}
	must(t, s.Tidy(ctx, keep)) // a new store
	wantBuilds(t, s, name)
	must(t, s.Tidy(ctx, keep)) // soon after
	wantBuilds(t, s, name)
	late := time.Now().Add(-tidyEvery)
	must(t, os.Chtimes(s.tidied(), late, late))
	must(t, s.Tidy(ctx, Keep{}))
	wantBuilds(t, s, name)
	must(t, os.Chtimes(s.tidied(), late, late))
	must(t, s.Tidy(ctx, keep))
	wantBuilds(t, s)
	wantClean(t, s)
}

// A disk that is full gets the space of earlier builds' records, when no cache is left.
func TestMakeSpaceOfBuilds(t *testing.T) {
	s := newStore(t)
	ended(t, s, 1, time.Hour)
	ended(t, s, 2, time.Minute)
	last := ended(t, s, 3, time.Second)
	if freed, err := s.MakeSpace(context.Background()); err != nil || freed < 20_000 {
		t.Errorf("made %d, %v", freed, err)
	}
	wantBuilds(t, s, last)
}

// A record that is pinned stays, until it is let go.
func TestPinBuild(t *testing.T) {
	s := newStore(t)
	a := ended(t, s, 1, time.Hour)
	must(t, s.PinBuild(a, true))
	if _, _, err := s.PruneBuilds(History{}); err != nil {
		t.Fatal(err)
	}
	wantBuilds(t, s, a)
	must(t, s.PinBuild(a, false))
	must(t, s.PinBuild(a, false))
	must(t, s.RemoveBuild(a))
	wantBuilds(t, s)
	for _, name := range []string{a, "../builds", "."} {
		if err := s.PinBuild(name, true); err == nil {
			t.Errorf("%q can be pinned", name)
		}
	}
}
