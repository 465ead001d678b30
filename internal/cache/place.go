package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// origin is where a cache is read from. Digests are the caller's to verify.
type origin interface {
	// resolve finds the manifest.
	resolve(ctx context.Context) (ocispec.Descriptor, error)
	// open reads a manifest or a blob.
	open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// destination is where a cache is written to.
type destination interface {
	// put writes a blob unless it is there. open is only called when it is not; it may be called
	// again after an error of reading or writing.
	put(ctx context.Context, desc ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error
	// name writes the manifest, all blobs of which are there, and gives it its name.
	name(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error
}

// errContent says that a blob is not what its digest says.
var errContent = errors.New("content does not have its digest")

// read returns a whole document of at most limit bytes, verified.
func read(ctx context.Context, from origin, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("descriptor with digest %q: %w", desc.Digest, err)
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s is too large (%d > %d)", desc.Digest, desc.Size, limit)
	}
	r, err := from.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", desc.Digest, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s is too large (> %d)", desc.Digest, limit)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("reading %s: %w: it has %s", desc.Digest, errContent, got)
	}
	return data, nil
}

// describe is a descriptor of a document.
func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
