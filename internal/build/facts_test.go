package build_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// A build that is as the one before it has the graph of that one, and its lists. What explains a miss later is the same.
func TestGraphOfEqualBuildsIsOneFile(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nARG TOKEN\nARG N\nCOPY a /\nRUN echo $N\n")
	h.write("a", "1")
	kept := func(n string, file string) (dir string, fi os.FileInfo) {
		t.Helper()
		req := build.Request{Context: h.context}
		arg("TOKEN=hidden-word", "N="+n)(h, &req)
		res, _ := h.build(req)
		dir = filepath.Join(h.store.Root(), "builds", res.ID)
		found, err := filepath.Glob(filepath.Join(dir, file))
		if must(t, err); len(found) != 1 {
			t.Fatalf("the record has %q", found)
		}
		fi, err = os.Stat(found[0])
		must(t, err)
		return dir, fi
	}
	_, first := kept("1", "graph.json")
	_, second := kept("1", "graph.json")
	if !os.SameFile(first, second) {
		t.Error("two equal builds have two graphs")
	}
	_, lists := kept("1", "lists-*")
	dir, again := kept("1", "lists-*")
	if !os.SameFile(lists, again) {
		t.Error("two equal builds have two lists")
	}
	_, other := kept("2", "graph.json")
	if os.SameFile(second, other) {
		t.Error("a build with another argument has the same graph")
	}

	// What may be another machine's is nobody's own.
	_, third := kept("1", "graph.json")
	if !os.SameFile(first, third) {
		t.Error("a build like one before the last one has a graph of its own")
	}
	names, err := h.store.BuildNames()
	must(t, err)
	for _, name := range names {
		must(t, os.WriteFile(filepath.Join(h.store.Root(), "builds", name, store.ImportedMark), nil, 0o600))
	}
	if _, own := kept("1", "graph.json"); os.SameFile(first, own) {
		t.Error("a build has the graph of a record that was imported")
	}
	must(t, os.Remove(filepath.Join(dir, store.ImportedMark)))

	// It explains as before.
	h.write("a", "2")
	w := &told{}
	req := build.Request{Context: h.context}
	arg("TOKEN=hidden-word", "N=1")(h, &req)
	_, err = h.builder.Build(t.Context(), req, w)
	must(t, err)
	if want := []string{"COPY a /: 1 of 1 file changed: a"}; !slices.Equal(w.lines, want) {
		t.Errorf("it tells %q, want %q", w.lines, want)
	}
}

// That a build was given up is a fact of its record, and no word in an error.
func TestRecordOfWhatWasGivenUp(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nCOPY context\\ canceled /\n")
	ended := func(ctx context.Context) (r build.Record) {
		req := build.Request{Context: h.context, Ended: func(rec *build.Record) { r = *rec }}
		if _, err := h.builder.Build(ctx, req, progress.Multi()); err == nil {
			t.Fatal("it was built")
		}
		return r
	}
	if r := ended(t.Context()); r.Canceled || r.Error == "" {
		t.Errorf("a build that failed: %q, canceled %v", r.Error, r.Canceled)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := ended(ctx); !r.Canceled || r.Error == "" {
		t.Errorf("a build that was given up: %q, canceled %v", r.Error, r.Canceled)
	}
}
