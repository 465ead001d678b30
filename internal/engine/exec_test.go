package engine

import (
	"context"
	"slices"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// TestOutputsAreFinal: what becomes a layer cannot change any more when its process has ended.
func TestOutputsAreFinal(t *testing.T) {
	needRoot(t)
	s, err := store.Open(shm(t))
	must(t, err)
	defer func() { must(t, s.Close()) }()
	x := &execution{r: New(Options{Store: s}).NewRun(t.Context(), RunOptions{}), ctx: context.Background(), inputs: []Value{{Snapshot: layer.Snapshot{}}},
		op: &pb.ExecOp{Meta: &pb.Meta{}}, outputs: map[int64]execOutput{}, mounts: map[int]FailedMount{}}
	defer x.close()
	for _, m := range []*pb.Mount{
		{Dest: pb.RootMount, Input: 0, Output: 0}, {Dest: "/out", Input: 0, Output: 1}, {Dest: "/lost", Input: 0, Output: int64(pb.SkipOutput)},
	} {
		must(t, x.mount(nil, m))
	}
	got := []bool{x.spec.Root.Final, x.spec.Mounts[0].Root.Final, x.spec.Mounts[1].Root.Final}
	if want := []bool{true, true, false}; !slices.Equal(got, want) {
		t.Errorf("final are the root, a mount with an output and one without: got %v, want %v", got, want)
	}
}
