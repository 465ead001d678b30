package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Decide is somebody who decides about a source, or wants to know more about it first.
type Decide func(context.Context, *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error)

// maxQuestions is how often a source is decided about that is changed, or told more of, as in BuildKit.
const maxQuestions = 10

// decide has a source become what rules and the build's own policy make of it.
func (p *policy) decide(ctx context.Context, op *pb.SourceOp, platform *pb.Platform, left int) (changed bool, err error) {
	if changed, err = p.engine.Evaluate(ctx, op); err != nil || p.client.opt.Decide == nil {
		return changed, err
	}
	req := &policysession.CheckPolicyRequest{Platform: platform, Source: &gwpb.ResolveSourceMetaResponse{Source: op.CloneVT()}}
	for ; left > 0; left-- {
		resp, err := p.client.opt.Decide(ctx, req)
		if err != nil {
			return false, err
		}
		if more := resp.GetRequest(); more != nil {
			if req.Source, err = p.tell(ctx, op, more); err != nil {
				return false, err
			}
			continue
		}
		decision := resp.GetDecision()
		switch {
		case decision == nil:
			return false, errors.New("no decision in policy response")
		case decision.Action == spb.PolicyAction_CONVERT && decision.Update == nil:
			return false, errors.New("convert action requires updated source")
		case decision.Action == spb.PolicyAction_CONVERT:
			op.Identifier, op.Attrs = decision.Update.Identifier, maps.Clone(decision.Update.Attrs)
			_, err := p.decide(ctx, op, platform, left-1)
			return true, err
		case decision.Action != spb.PolicyAction_ALLOW: // clients look for these words
			err := fmt.Errorf("source %q not allowed by policy: action %s", op.Identifier, decision.Action)
			return false, policysession.WrapDenyMessages(err, decision.DenyMessages)
		}
		return changed, nil
	}
	return false, errors.New("too many policy requests")
}

// tell tells a policy more about a source that it is to decide about, and of no other one.
func (p *policy) tell(ctx context.Context, op *pb.SourceOp, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	if id := req.Source.GetIdentifier(); id != op.Identifier {
		return nil, fmt.Errorf("policy requested different source identifier: %q != %q", id, op.Identifier)
	}
	if !maps.Equal(req.Source.Attrs, op.Attrs) {
		return nil, errors.New("policy requested different source attrs")
	}
	res, err := p.client.metadata(ctx, op.CloneVT(), SourceOptions(req))
	if err != nil {
		return nil, fmt.Errorf("error resolving source metadata from policy request: %w", err)
	}
	return SourceMeta(res), nil
}

// decideBundle has the policy decide about a bundle that a repository is said to come from, as about any other blob. There are
// none here (the source says so), and nobody shall be told that before the policy has decided.
func (p *policy) decideBundle(ctx context.Context, op *pb.SourceOp, platform *pb.Platform) error {
	bundle := op.Attrs[pb.AttrGitBundle]
	scheme, ref, _ := strings.Cut(bundle, "://")
	if bundle == "" || !strings.HasPrefix(op.Identifier, srctypes.GitScheme+"://") || scheme != srctypes.DockerImageBlobScheme && scheme != srctypes.OCIBlobScheme {
		return nil
	}
	blob := &pb.SourceOp{Identifier: bundle}
	if scheme == srctypes.OCIBlobScheme {
		name, _, _ := strings.Cut(ref, "@")
		blob.Attrs = map[string]string{pb.AttrOCILayoutStoreID: name}
		for _, k := range []string{pb.AttrOCILayoutSessionID, pb.AttrOCILayoutStoreID} {
			if v := op.Attrs[k]; v != "" {
				blob.Attrs[k] = v
			}
		}
	}
	if _, err := p.decide(ctx, blob, platform, maxQuestions); err != nil {
		return fmt.Errorf("error evaluating git bundle source policy: %w", err)
	}
	return nil
}

// platformOf is the platform that a question about a source is for.
func platformOf(opt sourceresolver.Opt) *pb.Platform {
	var p *ocispec.Platform
	switch {
	case opt.ImageOpt != nil:
		p = opt.ImageOpt.Platform
	case opt.OCILayoutOpt != nil:
		p = opt.OCILayoutOpt.Platform
	}
	if p == nil {
		return nil
	}
	return &pb.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}
