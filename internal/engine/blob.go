package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// blobRequest is a source that is one blob, of a repository or of a layout, as a file.
type blobRequest struct {
	ref    string // with the digest, and without a tag
	digest digest.Digest
	layout bool
	file   *httpsource.Request // its name, mode and owner
}

func parseBlob(op *pb.SourceOp) (*blobRequest, error) {
	scheme, id, _ := strings.Cut(op.Identifier, "://")
	named, err := reference.ParseNormalizedNamed(id)
	if err != nil {
		return nil, fmt.Errorf("reading source %s: %w", op.Identifier, err)
	}
	pinned, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("reading source %s: a blob has a digest", op.Identifier)
	}
	if a := pinned.Digest().Algorithm(); a != digest.SHA256 {
		return nil, fmt.Errorf("reading source %s: digest algorithm %s is not supported: use sha256", op.Identifier, a)
	}
	file, err := httpsource.Parse(op)
	if err != nil {
		return nil, err
	}
	if file.Signature.Wanted() {
		return nil, fmt.Errorf("reading source %s: signatures of blobs are not looked at: its digest says what it is", op.Identifier)
	}
	if file.Filename == "" {
		file.Filename = pinned.Digest().Encoded()
	}
	return &blobRequest{named.Name() + "@" + pinned.Digest().String(), pinned.Digest(), scheme == srctypes.OCIBlobScheme, file}, nil
}

// blobSource writes the key of a blob. What others were given by a registry, and what their layouts hold, is nobody else's by its digest:
// a layout must have it, and clients ask the registry.
func (r *Run) blobSource(ctx context.Context, _ *node, op *pb.SourceOp) (keyLines, error) {
	req, err := parseBlob(op)
	if err != nil {
		return nil, err
	}
	switch {
	case req.layout:
		f, err := r.openInLayout(ctx, req, op)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("reading blob %s: %w", req.ref, err)
		}
	case r.opt.Images.Account() != "":
		if _, err := r.opt.Images.Registry().Blob(ctx, req.ref); err != nil {
			return nil, err
		}
	}
	lines := httpLines(req.file, &httpsource.File{Digest: req.digest, Name: req.file.Name()})
	lines[0] = "operation blob"
	return lines, nil
}

// fetchBlob writes the blob into a layer.
func (r *Run) fetchBlob(ctx context.Context, _ *node, op *pb.SourceOp, step *progress.Step) (Value, error) {
	req, err := parseBlob(op)
	if err != nil {
		return Value{}, err
	}
	get := r.pullBlob
	if req.layout {
		get = r.copyBlob
	}
	size, err := get(ctx, req, op, step)
	if err != nil {
		return Value{}, err
	}
	plan := &httpPlan{store: r.Engine.opt.Store, req: req.file, file: &httpsource.File{Digest: req.digest, Size: size, Name: req.file.Name()}}
	id, err := r.writeLayer(ctx, plan.WriteTo)
	return Value{Snapshot: layer.Snapshot{id}}, err
}

// pullBlob brings a blob of a repository into the store.
func (r *Run) pullBlob(ctx context.Context, req *blobRequest, _ *pb.SourceOp, step *progress.Step) (int64, error) {
	reg := r.opt.Images.Registry()
	desc, err := reg.Blob(ctx, req.ref)
	if err != nil || r.Engine.opt.Store.HasBlob(req.digest) {
		return desc.Size, err
	}
	rc, err := reg.Fetch(ctx, req.ref, ocispec.Descriptor{Digest: req.digest, Size: desc.Size})
	if err != nil {
		return 0, err
	}
	step.Status(req.digest.String(), 0, desc.Size, false)
	err = r.Engine.opt.Store.WriteBlob(ctx, ocispec.Descriptor{Digest: req.digest, Size: desc.Size}, rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return 0, fmt.Errorf("fetching %s: %w", req.ref, err)
	}
	step.Status(req.digest.String(), desc.Size, desc.Size, true)
	return desc.Size, nil
}

// copyBlob brings a blob of a layout into the store.
func (r *Run) copyBlob(ctx context.Context, req *blobRequest, op *pb.SourceOp, _ *progress.Step) (int64, error) {
	f, err := r.openInLayout(ctx, req, op)
	if err != nil {
		return 0, err
	}
	desc, err := r.Engine.opt.Store.AddBlob(ctx, f, func(got ocispec.Descriptor) error {
		if got.Digest != req.digest {
			return fmt.Errorf("its content is %s", got.Digest)
		}
		return nil
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("reading blob %s: %w", req.ref, err)
	}
	return desc.Size, nil
}

func (r *Run) openInLayout(ctx context.Context, req *blobRequest, op *pb.SourceOp) (io.ReadCloser, error) {
	l, err := r.layout(op)
	if err != nil {
		return nil, err
	}
	f, err := l.Open(ctx, req.digest)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", req.ref, err)
	}
	return f, nil
}
