package engine

import (
	"context"
	"maps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/store"
)

// Cacheable lists what other builds can use of the graphs below edges that were evaluated: results
// of this build and of builds before it, those that were imported, and digests of files. It must be
// called before Close: layers that are only planned can be written as long as the run is not over.
func (r *Run) Cacheable(ctx context.Context, edges ...graph.Edge) (cache.Set, error) {
	ctx, end := r.begin(ctx)
	defer end()
	set := cache.Set{Memos: map[string]digest.Digest{}, Bases: map[digest.Digest]ocispec.Descriptor{}}
	final := map[*node]bool{}
	for _, e := range edges {
		r.standsOn(r.node(e.Vertex), final)
	}
	seen := map[Key]bool{}
	for _, n := range r.below(edges) {
		switch src := n.v.Op.GetSource(); {
		case src != nil && isImage(n):
			img, err := n.run.resolve(ctx, n, src)
			if err != nil {
				return set, err
			}
			for _, l := range img.Manifest.Layers {
				set.Bases[l.Digest] = l
			}
			continue
		case src != nil && !isRecorded(src):
			continue
		}
		id, err := n.identity(ctx)
		if err != nil {
			return set, err
		}
		if seen[id.key] {
			continue
		}
		seen[id.key] = true
		res, found, err := r.cacheable(ctx, n, id, final[n])
		if err != nil {
			return set, err
		}
		if found {
			set.Records = append(set.Records, cache.Record{Key: string(id.key), Place: place(n), Final: final[n], Result: res})
		}
	}
	r.elsewhere.mu.Lock()
	defer r.elsewhere.mu.Unlock()
	maps.Copy(set.Memos, r.elsewhere.memos)
	return set, nil
}

// cacheable returns the result of a node as others can use it. Layers that are only planned are
// written for it when the build's result stands on them: those that fetch it will need them. In
// other stages it is only said that they were planned.
func (r *Run) cacheable(ctx context.Context, n *node, id identity, final bool) (store.Result, bool, error) {
	pending := r.pendingOf(n, id)
	if pending != nil {
		res := pending.result
		written, err := r.recorded(ctx, pending)
		if err != nil || written || final {
			return res, err == nil, err
		}
		res.Planned, res.Outputs = true, nil
		return res, !pending.exec, nil
	}
	own, found, _, err := r.recall(ctx, id.key)
	if err != nil || found && !own.Planned {
		return own, found, err
	}
	a, err := r.adopt(ctx, n, id)
	if err != nil {
		return own, false, err
	}
	if a != nil && (!found || !a.result.Planned) {
		if a.bases {
			_, err = r.baseImages(ctx, n)
		}
		return a.result, err == nil, err
	}
	return own, found, nil
}

// below lists all nodes of graphs, inputs before what they are inputs of.
func (r *Run) below(edges []graph.Edge) []*node {
	seen := map[*node]bool{}
	var all []*node
	var walk func(n *node)
	walk = func(n *node) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		for _, in := range n.inputs {
			walk(in.n)
		}
		all = append(all, n)
	}
	for _, e := range edges {
		walk(r.node(e.Vertex))
	}
	return all
}
