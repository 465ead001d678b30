package imagesource

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// Layers names the layers of images within a store.
type Layers interface {
	// BlobLayer returns the layer whose uncompressed content is diffID, of which blob is a form.
	BlobLayer(ctx context.Context, diffID digest.Digest, blob ocispec.Descriptor) (layer.ID, error)
}

// Snapshot returns the image's root filesystem as layers of a store. The layers' blobs need not be
// there yet.
func Snapshot(ctx context.Context, s Layers, img *Image) (layer.Snapshot, error) {
	var snap layer.Snapshot
	for i, desc := range img.Manifest.Layers {
		id, err := s.BlobLayer(ctx, img.DiffIDs[i], desc)
		if err != nil {
			return nil, err
		}
		snap = append(snap, id)
	}
	return snap, nil
}
