package build

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/llbsolver/provenance"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/graph"
)

// A client may give what a frontend made for it to another one, as an input; buildx does so with targets that are contexts of others.
// Provenance then tells what was asked of the first one, too. An input is a graph, so the builds under way keep whose graphs are whose.

// request is what a frontend was asked, without what is a secret. It does not change.
type request struct {
	frontend string
	args     map[string]string
	inputs   map[string]*request // those that are known
}

func (r *request) equal(other *request) bool {
	return r.frontend == other.frontend && maps.Equal(r.args, other.args) && maps.Equal(r.inputs, other.inputs)
}

// requests are those of builds under way, by what came of them, each with how often it is held.
type requests struct {
	mu sync.Mutex
	of map[digest.Digest]map[*request]int
}

// hold notes what a result came of. The caller ends that with drop.
func (s *requests) hold(result digest.Digest, r *request) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.of[result] {
		if other.equal(r) {
			r = other
			break
		}
	}
	if s.of == nil {
		s.of = map[digest.Digest]map[*request]int{}
	}
	if s.of[result] == nil {
		s.of[result] = map[*request]int{}
	}
	s.of[result][r]++
	return r
}

func (s *requests) drop(result digest.Digest, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[result][r]--; s.of[result][r] <= 0 {
		delete(s.of[result], r)
	}
	if len(s.of[result]) == 0 {
		delete(s.of, result)
	}
}

// find gives the requests that inputs came of: of what came of several different ones nobody can say.
func (s *requests) find(inputs map[string]*pb.Definition) map[string]*request {
	found := map[string]*request{}
	for name, def := range inputs {
		e, err := graph.Load(def)
		if err != nil || e.Vertex == nil {
			continue // whoever reads the input says it
		}
		s.mu.Lock()
		if of := s.of[e.Vertex.Digest]; len(of) == 1 {
			for r := range of {
				found[name] = r
			}
		}
		s.mu.Unlock()
	}
	return found
}

// held is one request that a build holds.
type held struct {
	result digest.Digest
	of     *request
}

// note keeps what a result came of for those whose input it may become, until the build ends.
func (b *building) note(ref *frontend.Ref) {
	asked := ref.Asked()
	if asked == nil || b.req.Client == nil {
		return
	}
	r := b.requested(asked)
	b.mu.Lock()
	defer b.mu.Unlock()
	h := held{ref.Edge().Vertex.Digest, r}
	h.of = b.requests.hold(h.result, r)
	b.held = append(b.held, h)
}

// forget ends what note has begun.
func (b *building) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.held {
		b.requests.drop(h.result, h.of)
	}
	b.held = nil
}

// requested is what may be told of what a frontend was asked: who knows a session has what it gives.
func (b *building) requested(a *frontend.Asked) *request {
	args := provenance.FilterArgs(a.Attrs)
	maps.DeleteFunc(args, func(k, _ string) bool { return strings.HasPrefix(k, "local-sessionid:") })
	return &request{frontend: a.Frontend, args: args, inputs: b.requests.find(a.Inputs)}
}

// maxTold is about how many bytes of requests that inputs came of are told. They are few, unless somebody makes inputs of inputs.
const maxTold = 1 << 20

// tell is what provenance says of a request. What there is no room left for is left out.
func (r *request) tell(srcs provenancetypes.Sources, left *int) *provenancetypes.RequestProvenance {
	out := provenance.RequestProvenance(r.frontend, r.args, srcs)
	out.Request.Inputs = r.tellInputs(srcs, left)
	return out
}

func (r *request) tellInputs(srcs provenancetypes.Sources, left *int) map[string]*provenancetypes.RequestProvenance {
	var all map[string]*provenancetypes.RequestProvenance
	for _, name := range slices.Sorted(maps.Keys(r.inputs)) {
		in := r.inputs[name]
		*left -= 256 + len(name)
		for k, v := range in.args {
			*left -= len(k) + len(v)
		}
		if *left < 0 {
			break
		}
		if all == nil {
			all = map[string]*provenancetypes.RequestProvenance{}
		}
		all[name] = in.tell(srcs, left)
	}
	return all
}

// captureRequest says which frontend made a product, and what it was asked; of what somebody asked who drives the build, also what he
// was asked himself.
func (b *building) captureRequest(c *provenance.Capture, p *product) {
	root := b.requested(b.rootRequest())
	r := root
	switch {
	case b.req.Evaluate != nil && (p.ref == nil || p.ref.Asked() == nil):
		return // a graph that a client made
	case b.req.Evaluate != nil:
		r = b.requested(p.ref.Asked())
	}
	left := maxTold
	c.Request.Frontend, c.Request.Args = r.frontend, r.args
	if b.req.Client == nil {
		return
	}
	c.Request.Inputs = r.tellInputs(c.Sources, &left)
	if !root.equal(r) && (root.frontend != "" || len(root.args) > 0 || len(root.inputs) > 0) {
		c.Request.Root = root.tell(c.Sources, &left)
	}
}
