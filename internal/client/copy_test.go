package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

// A COPY from a client's directory is what it is from the same one here, in each form of the layer, and in both at once; it is
// of what was digested before, and of nothing that came later.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"src/a": "1", "src/large": strings.Repeat("2", 300<<10), "src/sub/b": "3", "unused": "4"})
	s := newServer(t)
	v := s.connect("key", directory(t, dir))
	op := op()
	copied := func(tree layer.Tree) *fileop.Plan {
		t.Helper()
		copy := &pb.FileActionCopy{Src: "/src", Dest: "/to/", DirCopyContents: true, CreateDestPath: true, Mode: -1, Timestamp: -1}
		outs, err := fileop.Make(t.Context(), &pb.FileOp{Actions: []*pb.FileAction{{Input: 0, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: copy}}}},
			[]layer.Tree{layer.Merged(nil), local.Strict(tree)}, fileop.Options{TempDir: t.TempDir(), Now: time.Unix(1000, 0)})
		if err != nil {
			t.Fatal(err)
		}
		return outs[0].Plans[0]
	}
	here, err := local.NewDir(dir, "").Tree(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.store.Plan(copied(digested(t, here)), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wantBlob, _, err := s.store.Blob(t.Context(), want, layer.Encoding{})
	if err != nil {
		t.Fatal(err)
	}
	for round, plan := range []func(store.Planned, time.Time) (layer.ID, error){s.store.Plan, s.store.PlanBoth, s.store.Plan} {
		c := s.build(v)
		x, tree := c.treeFor(t, op, nil, nil)
		selected(t, x, tree, "src")
		id, err := plan(copied(tree), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		dirs, err := s.store.Dirs(t.Context(), layer.Snapshot{id})
		if err != nil {
			t.Fatal(err)
		}
		if got := reads(t, layer.OpenDir(dirs[0], layer.DirOptions{}), "to/large"); got != strings.Repeat("2", 300<<10) {
			t.Errorf("round %d: a file of the layer has %d bytes", round, len(got))
		}
		blob, _, err := s.store.Blob(t.Context(), id, layer.Encoding{})
		if err != nil || blob.Digest != wantBlob.Digest {
			t.Errorf("round %d: the layer is %v, want %v, %v", round, blob.Digest, wantBlob.Digest, err)
		}
		if e, err := local.Strict(tree).Lstat("unused"); err != nil {
			t.Error(err)
		} else if _, err := e.Content.Open(); !errors.Is(err, layer.ErrChanged) {
			t.Errorf("round %d: what nobody digested can be copied: %v", round, err)
		}
		c.endFor(t)
	}
}

// digested has the digests of files known.
func digested(t *testing.T, tree layer.Tree) layer.Tree {
	t.Helper()
	hereSelected(t, tree, "src")
	return tree
}
