package frontend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

func decision(d *policysession.DecisionResponse) *policysession.CheckPolicyResponse {
	return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Decision{Decision: d}}
}

// decided are the sources of a graph of alpine and busybox after somebody has decided about them, and how often he was asked.
func decided(t *testing.T, decide Decide) (sources []string, asked int, err error) {
	t.Helper()
	marshalled, err := llb.Image("alpine").File(llb.Copy(llb.Image("busybox"), "/a", "/b")).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	c := New(Options{Decide: func(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
		mu.Lock()
		asked++
		mu.Unlock()
		return decide(ctx, req)
	}})
	p, err := c.policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.definition(t.Context(), marshalled.ToPB())
	for _, data := range out.GetDef() {
		op := &pb.Op{}
		if err := op.UnmarshalVT(data); err != nil {
			t.Fatal(err)
		}
		if src := op.GetSource(); src != nil {
			sources = append(sources, src.Identifier)
		}
	}
	return sources, asked, err
}

// TestPolicyAsks: what somebody else decides about sources counts, all are asked for at the same time, and none is used that he
// does not allow in so many words.
func TestPolicyAsks(t *testing.T) {
	allow := decision(&policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW})
	var both sync.WaitGroup
	both.Add(2)
	sources, asked, err := decided(t, func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
		src := req.Source.Source
		if strings.Contains(src.Identifier, "nothing") {
			return allow, nil
		}
		if req.Platform.GetOS() != "linux" {
			t.Errorf("the platform of %s is %v", src.Identifier, req.Platform)
		}
		both.Done()
		both.Wait() // the other one is asked for meanwhile
		if strings.Contains(src.Identifier, "busybox") {
			return allow, nil
		}
		return decision(&policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: "docker-image://nothing"}}), nil
	})
	if err != nil || asked != 3 || strings.Join(sources, " ") != "docker-image://nothing docker-image://docker.io/library/busybox:latest" && strings.Join(sources, " ") != "docker-image://docker.io/library/busybox:latest docker-image://nothing" {
		t.Errorf("sources are %q after %d questions, %v", sources, asked, err)
	}

	for name, tt := range map[string]struct {
		resp *policysession.CheckPolicyResponse
		err  error
		want string
	}{
		"denied":      {decision(&policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: "use another"}}}), nil, "not allowed by policy: action DENY"},
		"unknown":     {decision(&policysession.DecisionResponse{Action: 77}), nil, "not allowed by policy"},
		"nothing":     {&policysession.CheckPolicyResponse{}, nil, "no decision in policy response"},
		"nil":         {nil, nil, "no decision in policy response"},
		"no update":   {decision(&policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT}), nil, "convert action requires updated source"},
		"gone":        {nil, errors.New("it has gone"), "it has gone"},
		"endless":     {decision(&policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: policyFrom}}), nil, "too many policy requests"},
		"other":       {&policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: "docker-image://secret"}}}}, nil, "policy requested different source identifier"},
		"none":        {&policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: &gwpb.ResolveSourceMetaRequest{}}}, nil, "policy requested different source identifier"},
		"other attrs": {&policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: policyFrom, Attrs: map[string]string{"a": "b"}}}}}, nil, "policy requested different source attrs"},
	} {
		answer := func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
			if strings.Contains(req.Source.Source.Identifier, "busybox") {
				return allow, nil
			}
			return tt.resp, tt.err
		}
		_, asked, err := decided(t, answer)
		if err == nil || !strings.Contains(err.Error(), tt.want) || asked > 11 {
			t.Errorf("%s: %v after %d questions", name, err, asked)
		}
		if name == "denied" {
			if m := policysession.DenyMessages(err); len(m) != 1 || m[0].Message != "use another" {
				t.Errorf("the messages are %v", m)
			}
		}
		c := New(Options{Decide: answer})
		if _, err := c.ResolveSourceMetadata(t.Context(), &pb.SourceOp{Identifier: policyFrom}, sourceresolver.Opt{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: resolving: %v", name, err)
		}
		if _, _, _, err := c.ResolveImageConfig(t.Context(), strings.TrimPrefix(policyFrom, "docker-image://"), sourceresolver.Opt{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: resolving an image: %v", name, err)
		}
	}
	bundle := &pb.SourceOp{Identifier: "git://example.com/a.git", Attrs: map[string]string{pb.AttrGitBundle: "oci-layout+blob://local/b@sha256:" + strings.Repeat("a", 64)}}
	p, err := New(Options{Decide: func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
		if req.Source.Source.Attrs[pb.AttrOCILayoutStoreID] == "local/b" {
			return decision(&policysession.DecisionResponse{Action: spb.PolicyAction_DENY}), nil
		}
		return allow, nil
	}}).policy(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.source(t.Context(), bundle, nil); err == nil || !strings.Contains(err.Error(), "not allowed by policy") {
		t.Errorf("a bundle: %v", err)
	}
}
