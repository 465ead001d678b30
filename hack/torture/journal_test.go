package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A run that was stopped goes on: what it did is not done again, and counts; what was cut off is.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	program, path := filepath.Join(dir, "slipway"), filepath.Join(dir, "journal")
	if err := os.WriteFile(program, []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var did []uint64
	run := func(rounds int) outcome {
		t.Helper()
		j, err := openJournal(path, program)
		if err != nil {
			t.Fatal(err)
		}
		g := &ground{settings: settings{workers: 2, seed: 1, rounds: rounds}, dir: dir, journal: j}
		o := g.rounds(t.Context(), kind{name: "some", round: func(_ context.Context, r *round) error {
			mu.Lock()
			defer mu.Unlock()
			did = append(did, r.seed)
			r.count.Add(2)
			if r.seed == 2 {
				return errors.New("lost: everything")
			}
			return nil
		}})
		if err := errors.Join(j.add(entry{Planted: fmt.Sprint(rounds), Rounds: 3}), j.close()); err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := run(3); o.rounds != 3 || o.count != 6 || len(o.failures) != 1 {
		t.Fatalf("a first run: %+v", o)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, `{"kind":"some","seed":4,"cou`...), 0o644); err != nil {
		t.Fatal(err)
	}
	did = nil
	o := run(5)
	slices.Sort(did)
	if !slices.Equal(did, []uint64{4, 5}) || o.rounds != 5 || o.count != 10 || len(o.failures) != 1 || !strings.Contains(o.failures[0].Error(), "lost: everything") {
		t.Errorf("it went on with %d: %+v", did, o)
	}
	if o.took <= 0 {
		t.Errorf("the rounds took %s", o.took)
	}
	j, err := openJournal(path, program)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"3": true, "5": true, "7": false} {
		if _, ok := j.plant(name); ok != want {
			t.Errorf("%s was planted: %v", name, ok)
		}
	}
	if err := errors.Join(j.close(), os.WriteFile(program, []byte("two"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(path, program); err == nil || !strings.Contains(err.Error(), "another slipway") {
		t.Errorf("a journal of another program: %v", err)
	}
}
