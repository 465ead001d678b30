package engine

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
)

// Stack is what a step has of the layers of a result that stands on it.
type Stack struct {
	// Layers are those of an image, as its registry has them.
	Layers []ocispec.Descriptor
	// Counts are, for the outputs of any other step, how many of the result's layers they are, from the lowest on; 0 is an output that the
	// result does not stand on.
	Counts []int
}

// Stacks tells what layers the steps have that an edge stands on, by the digests of their vertices. The edge was evaluated; nothing
// is evaluated for this: of a step that is cached no longer nothing is told.
func (r *Run) Stacks(ctx context.Context, e graph.Edge) (map[digest.Digest]Stack, error) {
	ctx, end := r.begin(ctx)
	defer end()
	top := edge{r.node(e.Vertex), e.Index}
	if top.n == nil {
		return nil, nil
	}
	v, err := r.value(ctx, top)
	if err != nil {
		return nil, err
	}
	stacks := map[digest.Digest]Stack{}
	for _, n := range r.standsOn(top.n, map[*node]bool{}) {
		if src := n.v.Op.GetSource(); src != nil && isImage(n) {
			img, err := n.run.resolve(ctx, n, src)
			if err != nil {
				return nil, err
			}
			stacks[n.v.Digest] = Stack{Layers: img.Manifest.Layers}
			continue
		} else if src != nil && !isRecorded(src) {
			continue
		}
		outputs, err := r.outputsOf(ctx, n)
		if err != nil {
			return nil, err
		}
		var s Stack
		for _, snap := range outputs {
			count := 0
			if isPrefix(snap, v.Snapshot) {
				count = len(snap)
			}
			s.Counts = append(s.Counts, count)
		}
		stacks[n.v.Digest] = s
	}
	return stacks, nil
}

// outputsOf are the layers of a step's outputs, if the run or the cache has them.
func (r *Run) outputsOf(ctx context.Context, n *node) ([]layer.Snapshot, error) {
	id, err := n.identity(ctx)
	if err != nil {
		return nil, err
	}
	if pending := r.pendingOf(n, id); pending != nil {
		return pending.result.Outputs, nil
	}
	res, _, _, err := r.recall(ctx, id.key)
	return res.Outputs, err
}
