package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/reasons"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// node is a vertex within a run. Its key and its result are futures: they are computed once, for all evaluations that ask.
type node struct {
	run     *Run // that evaluates it
	v       *graph.Vertex
	inputs  []edge
	granted string  // see [Run.grants]
	reads   []any   // see [Run.readBy]
	asRun   string  // see [Run.asRun]
	src     *source // what it shares with other runs, if it is a directory or an image

	key     future[identity]
	outcome future[*outcome]
	cold    future[*outcome] // where outcome may be warm: see warm.go

	user    atomic.Pointer[node]              // one that n is an input of; nil for the root
	export  atomic.Pointer[exporting]         // set when its layers will be asked for as blobs
	image   atomic.Pointer[imagesource.Image] // that it turned out to be
	fetches sharedStep                        // of its layers, from an imported cache
	ran     atomic.Pointer[reasons.Why]       // set before it is carried out
	looked  atomic.Int64                      // how many flights had landed when its result was looked for

	mu       sync.Mutex
	contents map[string]*future[digested]
}

// isSource reports whether a node is a source.
func (n *node) isSource() bool { return n.v.Op.GetSource() != nil }

// edge is one output of a node; n is nil for the empty filesystem.
type edge struct {
	n     *node
	index int
}

// outcome is what a vertex gave.
type outcome struct {
	outputs []Value
	warm    []store.WarmDir // directories that were warm in it, or in what it stands on
}

// output gives the one of an edge.
func (o *outcome) output(e edge) (Value, error) {
	if e.index >= len(o.outputs) {
		return Value{}, fmt.Errorf("%s has no output %d", e.n.v.Name(), e.index)
	}
	return o.outputs[e.index], nil
}

// node returns the run's node of a vertex, and makes it with all that it needs.
func (r *Run) node(v *graph.Vertex) *node {
	if v == nil {
		return nil
	}
	if o := r.owner(v); o != r {
		return o.node(v)
	}
	r.mu.Lock()
	n, ok := r.nodes[v.Digest]
	r.mu.Unlock()
	if ok {
		return n
	}
	n = r.newNode(v)
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, ok := r.nodes[v.Digest]; ok {
		return other
	}
	r.nodes[v.Digest] = n
	for _, in := range n.inputs {
		if in.n != nil {
			in.n.user.CompareAndSwap(nil, n)
		}
	}
	return n
}

func (r *Run) newNode(v *graph.Vertex) *node {
	n := &node{run: r, v: v, contents: map[string]*future[digested]{}}
	for _, in := range v.Inputs {
		n.inputs = append(n.inputs, edge{r.node(in.Vertex), in.Index})
	}
	n.granted, n.reads, n.asRun = r.grants(n), r.readBy(n), r.asRun(v)
	if n.isSource() {
		n.src = r.source(n)
	}
	return n
}

// identity gives the node's key.
func (n *node) identity(ctx context.Context) (identity, error) {
	return n.key.do(ctx, n.run.life, n.run, func(ctx context.Context) (identity, error) {
		id, err := n.run.identify(ctx, n)
		return id, n.run.fail(ctx, n, err)
	})
}

// result gives what the node's operation gives.
func (n *node) result(ctx context.Context) (*outcome, error) {
	return n.outcome.do(ctx, n.run.life, n.run, func(ctx context.Context) (*outcome, error) {
		out, err := n.run.evaluate(ctx, n, false)
		return out, n.run.fail(ctx, n, err)
	})
}

func (r *Run) value(ctx context.Context, e edge) (Value, error) {
	if e.n == nil {
		return Value{}, nil
	}
	out, err := r.outcome(ctx, e.n, false)
	if err != nil {
		return Value{}, err
	}
	return out.output(e)
}

// content gives the future of the digest of some files that the node gives.
func (n *node) content(selection string) *future[digested] {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.contents[selection]
	if f == nil {
		f = &future[digested]{}
		n.contents[selection] = f
	}
	return f
}

// digested is the digest of a selection of files, the memo that it is found under ("" for none), and a list of the files (nil where they
// were not looked at).
type digested struct {
	digest digest.Digest
	memo   string
	list   *reasons.List
	lent   bool            // an imported cache had it
	warm   []store.WarmDir // directories that were warm in what it is the digest of

	recalled bool // nobody of this run has looked at the files
}
