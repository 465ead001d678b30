package engine

import (
	"context"
	"testing"

	"github.com/slipway-build/slipway/internal/store"
)

// A result that could not be recorded, as the run was ended at that time, is recorded at its end.
func TestKeepThatWasEnded(t *testing.T) {
	s, err := store.Open(shm(t))
	must(t, err)
	defer func() { must(t, s.Close()) }()
	r := New(Options{Store: s}).NewRun(t.Context(), RunOptions{})
	for _, key := range []Key{"one", "two"} {
		r.own().await(&pendingResult{run: r, key: key, exec: true})
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if r.keep(ended) == nil {
		t.Fatal("it is recorded with a context that has ended")
	}
	must(t, r.Close())
	for _, key := range []string{"one", "two"} {
		if _, found, why, err := s.Result(t.Context(), key); !found || err != nil {
			t.Errorf("%s: %v %q %v", key, found, why, err)
		}
	}
}
