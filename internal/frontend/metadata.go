package frontend

import (
	"context"
	"strings"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
)

// ResolveSourceMetadata implements the gateway client: it tells what a source is now, without its
// files. Of a directory there is nothing to tell.
func (c *Client) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	p, err := c.policy(opt.SourcePolicies)
	if err == nil {
		op, _, err = p.source(ctx, op, platformOf(opt))
	}
	if err != nil {
		return nil, err
	}
	return c.metadata(ctx, op, opt)
}

// metadata is ResolveSourceMetadata of a source that is decided about.
func (c *Client) metadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (_ *sourceresolver.MetaResponse, err error) {
	scheme, ref, _ := strings.Cut(op.Identifier, "://")
	res := &sourceresolver.MetaResponse{Op: op.CloneVT()}
	switch scheme {
	case "git":
		res.Git, err = c.opt.Run.GitMetadata(ctx, op, opt.GitOpt != nil && opt.GitOpt.ReturnObject)
	case "http", "https":
		res.HTTP, err = c.opt.Run.HTTPMetadata(ctx, op, opt.HTTPOpt)
	case srctypes.DockerImageScheme, srctypes.OCIScheme:
		// The frontend pins the reference to the digest, so that what was resolved is what is used; displays and provenance
		// have that digest, which is an index's if that is what the reference names.
		img, ierr := c.resolve(ctx, ref, opt)
		if ierr != nil {
			return nil, ierr
		}
		res.Image = &sourceresolver.ResolveImageResponse{Digest: img.Root, Config: img.Config}
		if o := opt.ImageOpt; o != nil && scheme == srctypes.DockerImageScheme && (o.AttestationChain || len(o.ResolveAttestations) > 0) {
			res.Image.AttestationChain, err = c.attestations(ctx, ref, img, o)
		}
		if opt.ImageOpt != nil && opt.ImageOpt.NoConfig {
			res.Image.Config = nil
		}
	}
	return res, err
}
