package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func (s *shelf) names(context.Context) (all []string, err error) {
	for name := range s.all {
		all = append(all, name)
	}
	return all, nil
}

func (s *shelf) remove(_ context.Context, name string, manifest []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.all[name], manifest) {
		return errdefs.ErrNotFound
	}
	delete(s.all, name)
	return nil
}

// datedAt is a manifest of a kind that was made, and used, at some times.
func datedAt(t *testing.T, kind string, made, used time.Time) []byte {
	t.Helper()
	m := ocispec.Manifest{ArtifactType: kind, Annotations: map[string]string{ocispec.AnnotationCreated: made.Format(time.RFC3339)}}
	if !used.IsZero() {
		m.Annotations[annotationUsed] = used.Format(time.RFC3339)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// What was neither made nor used since a time goes, of what is the cache's own; with dry nothing does.
func TestPrune(t *testing.T) {
	since := time.Now().Add(-14 * 24 * time.Hour)
	old, young := since.Add(-time.Hour), since.Add(time.Hour)
	s := &shelf{all: map[string][]byte{
		"result-old": datedAt(t, artifactResult, old, time.Time{}), "result-young": datedAt(t, artifactResult, young, time.Time{}),
		"result-used": datedAt(t, artifactResult, old, young), "result-unused": datedAt(t, artifactResult, old.Add(-time.Hour), old),
		"step-old": datedAt(t, artifactClaims, old, time.Time{}), "step-young": datedAt(t, artifactClaims, young, time.Time{}),
		"result-foreign": datedAt(t, "application/x", old, time.Time{}), "result-none": []byte("no"), "latest": datedAt(t, artifactResult, old, time.Time{}),
		"result-far": datedAt(t, artifactResult, old, time.Now().Add(1000*time.Hour)),
	}}
	if done, err := prune(t.Context(), s, since, true); err != nil || done != (Pruned{Removed: 3, Kept: 6}) || len(s.all) != 10 {
		t.Errorf("dry: %+v, %v", done, err)
	}
	if done, err := prune(t.Context(), s, since, false); err != nil || done != (Pruned{Removed: 3, Kept: 6}) {
		t.Errorf("%+v, %v", done, err)
	}
	all, _ := s.names(t.Context())
	slices.Sort(all)
	if want := []string{"latest", "result-far", "result-foreign", "result-none", "result-used", "result-young", "step-young"}; !slices.Equal(all, want) {
		t.Errorf("left are %q, want %q", all, want)
	}
}

// That something was used is noted once a day, and with nothing else changed.
func TestNoteUse(t *testing.T) {
	now := time.Now()
	s := &shelf{all: map[string][]byte{
		"result-old": datedAt(t, artifactResult, now.Add(-25*time.Hour), time.Time{}), "result-noted": datedAt(t, artifactResult, now.Add(-99*time.Hour), now.Add(-23*time.Hour)),
		"result-foreign": datedAt(t, "application/x", now.Add(-99*time.Hour), time.Time{}),
	}}
	for range 2 {
		for name := range map[string]bool{"result-old": true, "result-noted": true, "result-foreign": true, "result-gone": true} {
			if err := noteUse(t.Context(), s, name, now); err != nil {
				t.Error(err)
			}
		}
		if s.wrote != 1 || now.Sub(lastUsed(s.all["result-old"])) > time.Second {
			t.Errorf("written %d times, the last use is %s", s.wrote, lastUsed(s.all["result-old"]))
		}
	}
}

// Of a directory the blobs go that nothing names any more, but for those that somebody may be about to name.
func TestPruneDirectory(t *testing.T) {
	dir := t.TempDir()
	at, err := ParseFrom(Entry{Type: TypeLocal, Attrs: map[string]string{"src": dir, "mode": "keys"}})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := at.location.open(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := opened.(*byKey).named.(namedDirectory)
	blobs := map[string]ocispec.Descriptor{}
	long := time.Now().Add(-2 * blobGrace)
	for _, name := range []string{"named", "forgotten", "young", "again"} {
		blobs[name] = describe("", []byte(name))
		if err := d.put(t.Context(), blobs[name], bytesOpener([]byte(name))); err != nil {
			t.Fatal(err)
		}
		if name != "young" {
			if err := os.Chtimes(d.dir().BlobPath(blobs[name].Digest), long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.put(t.Context(), blobs["again"], nil); err != nil {
		t.Fatal(err)
	}
	manifest := func(layer string, made time.Time) []byte {
		raw, _ := json.Marshal(ocispec.Manifest{ArtifactType: artifactResult, Layers: []ocispec.Descriptor{blobs[layer]}, Annotations: map[string]string{ocispec.AnnotationCreated: made.Format(time.RFC3339)}})
		return raw
	}
	for name, raw := range map[string][]byte{"result-new": manifest("named", time.Now()), "result-old": manifest("forgotten", long)} {
		if err := d.enter(t.Context(), name, ocispec.Descriptor{}, raw); err != nil {
			t.Fatal(err)
		}
	}
	done, err := Prune(t.Context(), Entry{Type: TypeLocal, Attrs: map[string]string{"src": dir, "mode": "keys"}}, nil, time.Now().Add(-time.Hour), false)
	if err != nil || done != (Pruned{Removed: 1, Kept: 1, Bytes: int64(len("forgotten"))}) {
		t.Errorf("%+v, %v", done, err)
	}
	for name, desc := range blobs {
		if d.dir().Has(desc) != (name != "forgotten") {
			t.Errorf("the blob %s is there: %v", name, d.dir().Has(desc))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, namesDir, "result-old")); err == nil {
		t.Error("the old entry is there")
	}
}
