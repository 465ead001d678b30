package store

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// AddBlob stores what r gives until io.EOF. accept is told what it is before anybody else can see
// it; when it fails, or r does, nothing is left.
func (s *Store) AddBlob(ctx context.Context, r io.Reader, accept func(ocispec.Descriptor) error) (ocispec.Descriptor, error) {
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Abort()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{layer.ContextReader(ctx, r)}, make([]byte, 256<<10)); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("writing blob: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: w.Digest(), Size: w.Size()}
	if err := accept(desc); err != nil {
		return desc, err
	}
	_, err = w.Commit(ctx)
	return desc, err
}
