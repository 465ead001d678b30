package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// What was digested of a layer's files is known to the next process, whatever became of their directory since: of one
// that was made again nothing is.
func TestDigestsOfLayersAreKept(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	d, err := s.NewLayer()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(d.FS, "f"), []byte("content"), 0o644))
	id, err := d.Commit(ctx)
	must(t, err)
	entry := func(s *Store) *layer.Entry {
		t.Helper()
		tree, err := s.Tree(ctx, layer.Snapshot{id}, NeedContent)
		must(t, err)
		e, err := tree.Lstat("f")
		must(t, err)
		return e
	}
	e := entry(s)
	for !e.Content.(layer.Stamped).Stamp().OlderThan(time.Now()) { // as most files of layers are
	}
	want, err := layer.HashContent(e)
	must(t, err)
	if got := entry(s).Digest; got != want {
		t.Errorf("this process knows %q", got)
	}
	s.KeepDigests()
	must(t, s.letAllGo())
	if got := entry(s).Digest; got != want {
		t.Errorf("when it begins anew it knows %q", got)
	}
	other := open(t, s.root)
	if got := entry(other).Digest; got != want || got != digest.FromString("content") {
		t.Errorf("another process knows %q", got)
	}
	found, err := other.CheckAll(ctx, CheckOptions{})
	must(t, err)
	if len(found.Findings) > 0 {
		t.Errorf("a check finds %+v", found.Findings)
	}

	must(t, os.WriteFile(filepath.Join(s.layerFS(id), "next"), []byte("another"), 0o644))
	must(t, os.Rename(filepath.Join(s.layerFS(id), "next"), filepath.Join(s.layerFS(id), "f")))
	if got := entry(open(t, s.root)).Digest; got != "" {
		t.Errorf("of another file in its place it is known that it is %q", got)
	}
}

// Nothing is kept of a layer that is gone, and nothing comes back of it.
func TestDigestsOfLayersThatAreGone(t *testing.T) {
	s := newStore(t)
	id := layer.ID("gone")
	s.formTree(id)
	known, _ := s.digests.Load(id)
	known.(*fileDigests).Note(layer.Stamp{Ino: 1}, time.Now(), digest.FromString("content"))
	s.KeepDigests()
	wantNothing(t, s)
}
