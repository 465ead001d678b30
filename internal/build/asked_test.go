package build

import (
	"testing"

	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/opencontainers/go-digest"
)

// What a result came of is known as long as a build holds it, and if it is one thing.
func TestRequestsAreHeld(t *testing.T) {
	s := &requests{}
	result := digest.FromString("result")
	one := s.hold(result, &request{frontend: "a", args: map[string]string{"target": "x"}})
	if same := s.hold(result, &request{frontend: "a", args: map[string]string{"target": "x"}}); same != one {
		t.Error("the same request is another one")
	}
	other := s.hold(result, &request{frontend: "a"})
	if len(s.of[result]) != 2 {
		t.Errorf("a result came of %d requests, want 2", len(s.of[result]))
	}
	for _, r := range []*request{one, one, other} {
		s.drop(result, r)
	}
	if len(s.of) != 0 {
		t.Errorf("%d results are left of builds that are over", len(s.of))
	}
}

// Inputs of inputs of inputs are told up to a bound: they double with each.
func TestToldRequestsAreBounded(t *testing.T) {
	r := &request{frontend: "a"}
	for range 64 {
		r = &request{frontend: "a", inputs: map[string]*request{"x": r, "y": r}}
	}
	left, n := maxTold, 0
	var count func(p *provenancetypes.RequestProvenance)
	count = func(p *provenancetypes.RequestProvenance) {
		n++
		for _, in := range p.Request.Inputs {
			count(in)
		}
	}
	count(r.tell(provenancetypes.Sources{}, &left))
	if n < 64 || n > maxTold/256+1 {
		t.Errorf("%d requests are told", n)
	}
}
