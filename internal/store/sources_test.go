package store

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestSources(t *testing.T) {
	s := open(t, t.TempDir())
	a, b := digest.FromString("a"), digest.FromString("b")
	if got, err := s.Sources(t.Context(), a); err != nil || len(got) > 0 {
		t.Fatalf("sources in a new store: %v, %v", got, err)
	}
	for _, repo := range []string{"r.test/x", "docker.io/library/alpine", "r.test/x"} {
		if err := s.AddSources(t.Context(), repo, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddSources(t.Context(), "r.test/x", a, b); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[digest.Digest][]string{a: {"docker.io/library/alpine", "r.test/x"}, b: {"r.test/x"}} {
		if got, err := s.Sources(t.Context(), d); err != nil || !slices.Equal(got, want) {
			t.Errorf("sources of %s: %v, %v, want %v", d, got, err, want)
		}
	}
}
