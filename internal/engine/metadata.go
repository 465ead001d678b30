package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
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
	if !objects && !req.Signature.Wanted() {
		return res, nil
	}
	o, err := r.gitObjects(ctx, req, c)
	if err != nil {
		return nil, err
	}
	res.CommitObject, res.TagObject, res.CommitChecksum = o.Commit, o.Tag, o.Peeled
	return res, nil
}

// HTTPMetadata tells what a URL names, which is in the store then.
func (r *Run) HTTPMetadata(ctx context.Context, op *pb.SourceOp, opt *sourceresolver.ResolveHTTPOpt) (*sourceresolver.ResolveHTTPResponse, error) {
	var sum *sourceresolver.ResolveHTTPChecksumRequest
	if opt != nil && opt.ChecksumReq != nil {
		sum = opt.ChecksumReq
		if len(sum.Suffix) > maxSuffix {
			return nil, fmt.Errorf("http checksum request suffix exceeds max size %d", maxSuffix)
		}
		if checksums[sum.Algo] == "" {
			return nil, fmt.Errorf("unsupported checksum algorithm %d", sum.Algo)
		}
	}
	ctx, end := r.begin(ctx)
	defer end()
	f, err := r.signedFile(ctx, nil, op)
	if err != nil {
		return nil, err
	}
	res := &sourceresolver.ResolveHTTPResponse{Digest: f.Digest, Filename: f.Name}
	if !f.Modified.IsZero() {
		t := f.Modified.In(time.UTC)
		res.LastModified = &t
	}
	if sum != nil {
		d, err := r.checksum(f, checksums[sum.Algo], sum.Suffix)
		if err != nil {
			return nil, err
		}
		res.ChecksumResponse = &sourceresolver.ResolveHTTPChecksumResponse{Digest: d.String(), Suffix: slices.Clone(sum.Suffix)}
	}
	return res, nil
}

// maxSuffix is how long what follows a file may be of which a checksum is asked for.
const maxSuffix = 4 << 10

var checksums = map[sourceresolver.ResolveHTTPChecksumAlgo]digest.Algorithm{
	sourceresolver.ResolveHTTPChecksumAlgoSHA256: digest.SHA256, sourceresolver.ResolveHTTPChecksumAlgoSHA384: digest.SHA384,
	sourceresolver.ResolveHTTPChecksumAlgoSHA512: digest.SHA512,
}

// checksum is that of a file from a server and what follows it: what signatures are made of.
func (r *Run) checksum(f *httpsource.File, algo digest.Algorithm, suffix []byte) (digest.Digest, error) {
	digester := algo.Digester()
	if f.Size > 0 {
		var content layer.Content = blobContent{r.Engine.opt.Store, f.Digest}
		if f.Path != "" {
			content = fileContent(f.Path)
		}
		in, err := content.Open()
		if err != nil {
			return "", err
		}
		_, err = io.Copy(digester.Hash(), in)
		if err = errors.Join(err, in.Close()); err != nil {
			return "", err
		}
	}
	_, _ = digester.Hash().Write(suffix)
	return digester.Digest(), nil
}
