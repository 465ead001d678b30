package frontend

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/imageutil"

	"github.com/slipway-build/slipway/internal/graph"
)

const (
	policyFrom = "docker-image://docker.io/library/alpine:latest"
	policyTo   = "docker-image://docker.io/library/busybox:1"
)

func rules(rules ...*spb.Rule) []*spb.Policy { return []*spb.Policy{{Version: 1, Rules: rules}} }

func rule(action spb.PolicyAction, from, to string) *spb.Rule {
	r := &spb.Rule{Action: action, Selector: &spb.Selector{Identifier: from}}
	if to != "" {
		r.Updates = &spb.Update{Identifier: to}
	}
	return r
}

// TestPolicyConverts: a source is replaced wherever the graph has it, and everything else stays.
func TestPolicyConverts(t *testing.T) {
	base := llb.Image("alpine")
	state := base.Run(llb.Shlex("one"), llb.WithCustomName("[one]")).Root().File(llb.Copy(llb.Image("other"), "/a", "/b"))
	marshalled, err := state.Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	def := marshalled.ToPB()
	c := New(Options{SourcePolicies: rules(rule(spb.PolicyAction_CONVERT, policyFrom, policyTo))})
	p, err := c.policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := def.CloneVT()
	out, err := p.definition(t.Context(), def)
	if err != nil || !def.EqualVT(before) {
		t.Fatalf("got %v; the definition was changed: %t", err, !def.EqualVT(before))
	}
	e, err := graph.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	run := e.Vertex.Inputs[0].Vertex
	if got := run.Inputs[0].Vertex.Op.GetSource().Identifier; got != policyTo || run.Name() != "[one]" {
		t.Errorf("%s stands on %s, want %s", run.Name(), got, policyTo)
	}
	if got := e.Vertex.Inputs[1].Vertex.Op.GetSource().Identifier; !strings.Contains(got, "library/other") {
		t.Errorf("another source is %s", got)
	}
	p, err = New(Options{}).policy(rules(rule(spb.PolicyAction_CONVERT, "docker-image://nothing", policyTo)))
	if same, serr := p.definition(t.Context(), def); err != nil || serr != nil || same != def {
		t.Errorf("a policy about nothing: %v, %v, changed: %t", err, serr, same != def)
	}
}

// TestPolicyDenies: what is denied is not resolved and not built, and a policy that is none is an error.
func TestPolicyDenies(t *testing.T) {
	marshalled, err := llb.Image("alpine").Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{})
	for _, tt := range []struct {
		policies []*spb.Policy
		want     string
	}{
		{rules(rule(spb.PolicyAction_DENY, policyFrom, "")), "denied by policy"},
		{rules(&spb.Rule{Action: spb.PolicyAction_CONVERT}), "invalid nil selector in policy"},
		{[]*spb.Policy{{Rules: []*spb.Rule{nil}}}, "invalid nil rule in policy"},
		{[]*spb.Policy{nil}, "invalid nil source policy"},
		{rules(rule(9000, policyFrom, "")), "unknown type"},
		{rules(rule(spb.PolicyAction_CONVERT, policyFrom, "")), "missing destination for convert rule"},
	} {
		_, err := c.Solve(t.Context(), gw.SolveRequest{Definition: marshalled.ToPB(), SourcePolicies: tt.policies})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("building: got %v, want %q", err, tt.want)
		}
		_, err = c.ResolveSourceMetadata(t.Context(), &pb.SourceOp{Identifier: policyFrom}, sourceresolver.Opt{SourcePolicies: tt.policies})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("resolving: got %v, want %q", err, tt.want)
		}
		_, _, _, err = c.ResolveImageConfig(t.Context(), "docker.io/library/alpine:latest", sourceresolver.Opt{SourcePolicies: tt.policies})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("resolving an image: got %v, want %q", err, tt.want)
		}
	}
	if _, err := c.Solve(t.Context(), gw.SolveRequest{Definition: marshalled.ToPB(), SourcePolicies: rules(rule(spb.PolicyAction_DENY, policyFrom, ""))}); !errors.Is(err, sourcepolicy.ErrSourceDenied) {
		t.Errorf("got %v", err)
	}
	var other *imageutil.ResolveToNonImageError
	_, _, _, err = c.ResolveImageConfig(t.Context(), "docker.io/library/alpine:latest", sourceresolver.Opt{SourcePolicies: rules(rule(spb.PolicyAction_CONVERT, policyFrom, "https://example.com/root.tar"))})
	if !errors.As(err, &other) || other.Updated != "https://example.com/root.tar" {
		t.Errorf("an image that becomes a file: %v", err)
	}
}

// A graph that is none gives an error.
func TestPolicyHostileGraphs(t *testing.T) {
	p, err := New(Options{}).policy(rules(rule(spb.PolicyAction_CONVERT, policyFrom, policyTo)))
	if err != nil {
		t.Fatal(err)
	}
	src, err := (&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: policyFrom}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	missing, err := (&pb.Op{Inputs: []*pb.Input{{Digest: "sha256:x"}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, def := range map[string]*pb.Definition{"missing": {Def: [][]byte{src, missing}}, "no protobuf": {Def: [][]byte{src, []byte("\xff\xff")}}} {
		if out, err := p.definition(t.Context(), def); err == nil {
			t.Errorf("%s: got %v", name, out)
		}
	}
}
