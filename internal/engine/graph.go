package engine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/reasons"
)

// Graph is what the run has of its graphs, for later builds to compare theirs with.
func (r *Run) Graph() (*reasons.Build, error) {
	b, _, err := r.graph()
	return b, err
}

// GraphSum is a digest of all that [Run.Graph] is made of. It is to be told to nobody: it is of values, too.
func (r *Run) GraphSum() digest.Digest {
	b, _ := r.untold()
	h := digest.Canonical.Digester()
	fmt.Fprintf(h.Hash(), "%q\n", b.Arguments)
	for _, v := range b.Vertices {
		fmt.Fprintf(h.Hash(), "%q %d %q %d %q\n", v.Name, v.Line, v.Key, v.Inputs, v.Lines)
	}
	return h.Digest()
}

// tmp is where files without a name are.
func (e *Engine) tmp() string { return filepath.Join(e.opt.Store.Root(), "tmp") }

// keepList keeps a list of files for the run's graph. The first one of a digest stays: what is copied on as it came has the same digest, by other paths, and in
// each build the same list has to be the one that is compared.
func (r *Run) keepList(d digested) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lists == nil {
		r.lists = map[digest.Digest]*reasons.List{}
	}
	if r.lists[d.digest] == nil {
		r.lists[d.digest] = d.list
	}
}

// List is a list of the files that a digest in a key of the run's is of; nil: they were not looked at.
func (r *Run) List(d digest.Digest) *reasons.List {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lists[d]
}

// graph gives the vertices that are known by now, with lines that may be told, and the number of each.
func (r *Run) graph() (*reasons.Build, map[*node]int, error) {
	b, numbers := r.untold()
	var failure error
	for i := range b.Vertices {
		v := &b.Vertices[i]
		lines, err := r.Engine.opt.Store.Tellable(v.Lines)
		if err != nil {
			failure = err
		}
		v.Lines = lines
	}
	return b, numbers, failure
}

// untold gives the vertices that are known by now, inputs before what they are inputs of, in an order that is the same in each build of the
// same graph; and the number of each. Their lines have values in them.
func (r *Run) untold() (*reasons.Build, map[*node]int) {
	b, numbers := &reasons.Build{Arguments: r.opt.Arguments}, map[*node]int{}
	var add func(n *node) int
	add = func(n *node) int {
		if n == nil {
			return -1
		}
		if i, ok := numbers[n]; ok {
			return i
		}
		v := reasons.Vertex{Name: n.v.Name(), Line: line(n.v)}
		for _, in := range n.inputs {
			v.Inputs = append(v.Inputs, add(in.n))
		}
		if id, ok := n.key.peek(); ok {
			v.Key, v.Lines = string(id.key), id.lines
		}
		numbers[n] = len(b.Vertices)
		b.Vertices = append(b.Vertices, v)
		return numbers[n]
	}
	for _, n := range r.roots() {
		add(n)
	}
	return b, numbers
}

// line is where a vertex begins in its Dockerfile; 0 is not known.
func line(v *graph.Vertex) int {
	if len(v.Sources) == 0 || len(v.Sources[0].GetRanges()) == 0 {
		return 0
	}
	return int(v.Sources[0].GetRanges()[0].GetStart().GetLine())
}

// roots are the nodes that are no inputs of others of the run.
func (r *Run) roots() []*node {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.nodes))
	r.mu.Unlock()
	all = slices.DeleteFunc(all, func(n *node) bool {
		u := n.user.Load()
		return u != nil && u.run == r
	})
	slices.SortFunc(all, func(a, b *node) int {
		if c := strings.Compare(a.v.Name(), b.v.Name()); c != 0 {
			return c
		}
		return strings.Compare(a.v.Digest.String(), b.v.Digest.String())
	})
	return all
}
