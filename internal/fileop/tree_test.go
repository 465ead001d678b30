package fileop

import (
	"context"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// A plan is a tree like any other.
func TestPlanIsTree(t *testing.T) {
	base := memory(t, "a/b/c=1", "a/gone=2", "a/b-c=3", "link->a", "d/e/f=4")
	layertest.Tree(t, base)
	op := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: 1, Output: -1, Action: &pb.FileAction_Copy{Copy: cp("/", "/a/new/")}},
		{Input: 2, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/a/gone"}}},
		{Input: 3, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/d"}}},
		{Input: 4, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Mode: 0o755}}},
	}}
	source := memory(t, "f=1", "g/h=2", "up->..", "archive="+string(archive(t)))
	out, err := Make(context.Background(), op, []layer.Tree{base, source}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := out[0].Plans[0]
	layertest.Tree(t, p)
	for _, name := range []string{"a/gone", "d/e", "d/e/f"} {
		if e, err := p.Lstat(name); !missing(err) {
			t.Errorf("Lstat(%q) = %+v, %v, but it was removed", name, e, err)
		}
	}
}
