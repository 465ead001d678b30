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

// What a registry has under a name stays with the name as long as that stands for the same image.
func TestSource(t *testing.T) {
	s := open(t, t.TempDir())
	img := newImage(t, s, "one", 0)
	img.Name = "r.test/app:v1"
	source := digest.FromString("index")
	get := func() Image {
		t.Helper()
		got, err := s.Image(t.Context(), img.Name)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	set := func(i Image) {
		t.Helper()
		if err := s.SetImages(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	set(img)
	if got := get(); got.RepoDigest() != img.Manifest.Digest {
		t.Errorf("without a source it is %s", got.RepoDigest())
	}
	if err := s.SetSource(t.Context(), img, source); err != nil {
		t.Fatal(err)
	}
	set(img)
	if got := get(); got.RepoDigest() != source {
		t.Errorf("named again it is %s, want %s", got.RepoDigest(), source)
	}
	if got, err := s.Image(t.Context(), "r.test/app@"+source.String()); err != nil || got.Name != img.Name {
		t.Errorf("by the source's digest: %+v, %v", got, err)
	}
	other := newImage(t, s, "two", 0)
	other.Name = img.Name
	set(other)
	if err := s.SetSource(t.Context(), img, source); err != nil { // too late
		t.Fatal(err)
	}
	if got := get(); got.RepoDigest() != other.Manifest.Digest {
		t.Errorf("another image of that name is %s, want %s", got.RepoDigest(), other.Manifest.Digest)
	}
}
