package engine

import (
	"context"
	"testing"

	"github.com/slipway-build/slipway/internal/store"
)

// A result that could not be recorded, as another build ended the group at that time, is recorded at its end.
func TestKeepThatWasEnded(t *testing.T) {
	s, err := store.Open(shm(t))
	must(t, err)
	defer func() { must(t, s.Close()) }()
	g := (&Engine{opt: Options{Store: s}}).NewGroup(t.Context())
	r := g.NewRun(RunOptions{})
	ended, end := context.WithCancel(t.Context())
	end()
	if g.keep(ended, &pendingResult{run: r, key: "one", exec: true}, &pendingResult{run: r, key: "two", exec: true}) == nil {
		t.Fatal("it is recorded with a context that has ended")
	}
	must(t, g.Close())
	for _, key := range []string{"one", "two"} {
		if _, found, why, err := s.Result(t.Context(), key); !found || err != nil {
			t.Errorf("%s: %v %q %v", key, found, why, err)
		}
	}
}
