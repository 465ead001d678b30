package engine

import (
	"context"
	"errors"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"

	gitsource "github.com/slipway-build/slipway/internal/source/git"
)

// GitMetadata tells which commit a git source names, and what git stores of it when objects is set.
func (r *Run) GitMetadata(ctx context.Context, op *pb.SourceOp, objects bool) (*sourceresolver.ResolveGitResponse, error) {
	ctx, end := r.begin(ctx)
	defer end()
	req, err := gitsource.Parse(op)
	if err != nil {
		return nil, err
	}
	c, err := r.gitCommit(ctx, nil, req)
	if err != nil {
		return nil, err
	}
	res := &sourceresolver.ResolveGitResponse{Checksum: c.Object, Ref: c.Ref, CommitChecksum: c.Peeled}
	if !objects {
		return res, nil
	}
	o, err := r.git.Objects(ctx, req, c, r.gitEnv(nil))
	if err != nil {
		return nil, err
	}
	res.CommitObject, res.TagObject, res.CommitChecksum = o.Commit, o.Tag, o.Peeled
	return res, nil
}

// HTTPMetadata tells what a URL names, which is in the store then.
func (r *Run) HTTPMetadata(ctx context.Context, op *pb.SourceOp, opt *sourceresolver.ResolveHTTPOpt) (*sourceresolver.ResolveHTTPResponse, error) {
	if opt != nil && opt.ChecksumReq != nil {
		return nil, errors.New("other checksums of files than sha256 are not supported")
	}
	ctx, end := r.begin(ctx)
	defer end()
	f, err := r.httpFile(ctx, nil, op)
	if err != nil {
		return nil, err
	}
	res := &sourceresolver.ResolveHTTPResponse{Digest: f.Digest, Filename: f.Name}
	if !f.Modified.IsZero() {
		t := f.Modified.In(time.UTC)
		res.LastModified = &t
	}
	return res, nil
}
