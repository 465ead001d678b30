package bridge

import (
	"context"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-build/slipway/internal/frontend"
)

// platform is nil when a client says nothing.
func platform(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// ResolveImageConfig implements the service.
func (b *Bridge) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	opt := sourceresolver.Opt{LogName: req.LogName, SourcePolicies: req.SourcePolicies}
	switch sourceresolver.ResolverType(req.ResolverType) {
	case sourceresolver.ResolverTypeRegistry:
		opt.ImageOpt = &sourceresolver.ResolveImageOpt{ResolveMode: req.ResolveMode, Platform: platform(req.Platform)}
	case sourceresolver.ResolverTypeOCILayout:
		opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{
			Store: sourceresolver.ResolveImageConfigOptStore{SessionID: req.SessionID, StoreID: req.StoreID}, Platform: platform(req.Platform),
		}
	default:
		return nil, status.Errorf(codes.InvalidArgument, "unknown resolver type %d", req.ResolverType)
	}
	ref, digest, config, err := b.client.ResolveImageConfig(ctx, req.Ref, opt)
	if err != nil {
		return nil, err
	}
	return &gwpb.ResolveImageConfigResponse{Ref: ref, Digest: string(digest), Config: config}, nil
}

// ResolveSourceMeta implements the service.
func (b *Bridge) ResolveSourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if req.Source == nil {
		return nil, status.Error(codes.InvalidArgument, "source is required")
	}
	meta, err := b.client.ResolveSourceMetadata(ctx, req.Source, frontend.SourceOptions(req))
	if err != nil {
		return nil, err
	}
	return frontend.SourceMeta(meta), nil
}
