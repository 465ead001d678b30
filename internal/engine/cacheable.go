package engine

import (
	"context"
	"iter"
	"slices"

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
	for key, k := range r.elsewhere.memos {
		set.Memos[key] = k.digest
	}
	return set, nil
}

// Made lists what the run has made so far, and what it found in the store, of vertices that were asked for: what a cache that is asked for
// each key may lack, but for the keys of has. What only stands below such a result is not looked at. edges are those that the build's
// result is, once it is there: layers that are only planned are written for it, as in [Run.Cacheable].
func (r *Run) Made(ctx context.Context, has map[string]bool, edges ...graph.Edge) (cache.Set, error) {
	ctx, end := r.begin(ctx)
	defer end()
	set := cache.Set{}
	final := map[*node]bool{}
	for _, e := range edges {
		r.standsOn(r.node(e.Vertex), final)
	}
	memos, err := r.unsent(ctx, has)
	if err != nil {
		return set, err
	}
	seen := map[Key]bool{}
	for n, rec := range r.evaluated() {
		if rec.Key == "" || rec.From != "" || rec.Error != "" || len(rec.Warm) > 0 || seen[rec.Key] || has[string(rec.Key)] {
			continue
		}
		id, err := n.identity(ctx)
		if err != nil {
			return set, err
		}
		if id.key != rec.Key {
			continue // a source's, which others have their own way to
		}
		res, found, err := n.run.here(ctx, n, id, rec.Cached, final[n])
		if err != nil {
			return set, err
		}
		if !found || res.Planned {
			continue
		}
		seen[rec.Key] = true
		made := cache.Record{Key: string(id.key), Place: place(n), Final: final[n], Ran: !rec.Cached, Anew: id.fresh && !rec.Cached && rec.Shared == "", Bases: r.baseLayers(n), Result: res}
		if m := memos[rec.Key]; m != nil {
			made.Memos = m.of
			delete(memos, rec.Key)
		}
		set.Records = append(set.Records, made)
	}
	for key, m := range memos {
		res, err := r.memosOf(ctx, m.n, key)
		if err != nil {
			return set, err
		}
		set.Records = append(set.Records, cache.Record{Key: string(key), Place: place(m.n), Bases: r.baseLayers(m.n), Result: res, Memos: m.of, Only: true})
	}
	return set, nil
}

// baseLayers are those of the images that a node stands on: its reader does not know those of others.
func (r *Run) baseLayers(n *node) map[digest.Digest]ocispec.Descriptor {
	bases := map[digest.Digest]ocispec.Descriptor{}
	for _, in := range r.standsOn(n, map[*node]bool{}) {
		if img := in.image.Load(); img != nil {
			for _, l := range img.Manifest.Layers {
				bases[l.Digest] = l
			}
		}
	}
	return bases
}

// memos are digests of files of a node.
type memos struct {
	n  *node
	of map[string]digest.Digest
}

// unsent are the digests of files that an exported cache may lack, by the keys of what has the files.
func (r *Run) unsent(ctx context.Context, has map[string]bool) (map[Key]*memos, error) {
	asked := map[string]known{}
	for _, of := range r.withLinks() {
		of.elsewhere.mu.Lock()
		for memo, k := range of.elsewhere.memos {
			if of == r || r.isLinked(k.n.v.Digest) {
				asked[memo] = k
			}
		}
		of.elsewhere.mu.Unlock()
	}
	all := map[Key]*memos{}
	for memo, k := range asked {
		if k.lent || has[memo] {
			continue
		}
		id, err := k.n.identity(ctx)
		if err != nil {
			return nil, err
		}
		if all[id.key] == nil {
			all[id.key] = &memos{k.n, map[string]digest.Digest{}}
		}
		all[id.key].of[memo] = k.digest
	}
	return all, nil
}

// memosOf is the result that has the files of memos, as far as it has layers: those of a source, or of what is only planned, are of none.
func (r *Run) memosOf(ctx context.Context, n *node, key Key) (res store.Result, err error) {
	if n.isSource() {
		return res, nil
	}
	n.run.elsewhere.mu.Lock()
	a := n.run.elsewhere.adopted[key]
	n.run.elsewhere.mu.Unlock()
	if a != nil {
		return a.result, nil
	}
	id, err := n.identity(ctx)
	if err != nil {
		return res, err
	}
	if pending := r.pendingOf(n, id); pending != nil {
		res, _, err = r.unrecorded(ctx, pending, false)
	} else {
		res, _, _, err = n.run.recall(ctx, key)
	}
	return res, err
}

// evaluated are the nodes of the run's graph that were asked for, and what became of each, those of linked runs too.
func (r *Run) evaluated() iter.Seq2[*node, StepRecord] {
	return func(yield func(*node, StepRecord) bool) {
		for _, of := range r.withLinks() {
			for _, rec := range of.Records() {
				n := of.nodeOf(rec.Digest)
				if n == nil || of != r && !r.isLinked(rec.Digest) {
					continue
				}
				if !yield(n, rec) {
					return
				}
			}
		}
	}
}

// withLinks are the run and those whose results it stands on.
func (r *Run) withLinks() []*Run {
	all := []*Run{r}
	for i := 0; i < len(all); i++ {
		for _, l := range all[i].opt.Links {
			if !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	return all
}

// isLinked reports whether a vertex is of a graph that is another run's.
func (r *Run) isLinked(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.linked[d] != nil
}

// nodeOf is the node of a vertex that was asked for, or nil.
func (r *Run) nodeOf(d digest.Digest) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[d]
}

// cacheable returns the result of a node as others can use it. Layers that are only planned are
// written for it when the build's result stands on them: those that fetch it will need them. In
// other stages it is only said that they were planned.
func (r *Run) cacheable(ctx context.Context, n *node, id identity, final bool) (store.Result, bool, error) {
	if pending := r.pendingOf(n, id); pending != nil {
		return r.unrecorded(ctx, pending, final)
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

// unrecorded is cacheable for a result that waits to be recorded.
func (r *Run) unrecorded(ctx context.Context, p *pendingResult, final bool) (store.Result, bool, error) {
	res := p.result
	written, err := r.recorded(ctx, p)
	if err != nil || written || final {
		return res, err == nil, err
	}
	res.Planned, res.Outputs = true, nil
	return res, !p.exec, nil
}

// here is cacheable for what the run has made, or the store has that no imported cache had part in: that was written when it was made.
func (r *Run) here(ctx context.Context, n *node, id identity, cached, final bool) (store.Result, bool, error) {
	if pending := r.pendingOf(n, id); pending != nil {
		return r.unrecorded(ctx, pending, final)
	}
	if cached {
		own, found, _, err := r.Engine.opt.Store.Result(ctx, string(id.key))
		return own, found, err
	}
	own, found, _, err := r.recall(ctx, id.key)
	return own, found, err
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
