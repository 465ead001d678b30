package imagesource

import (
	"context"
	"encoding/json"
	"fmt"

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
	var config ocispec.Image
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return nil, fmt.Errorf("reading config of image %s: %w", img.Ref, err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(img.Manifest.Layers) {
		return nil, fmt.Errorf("reading config of image %s: it has %d diffIDs for %d layers", img.Ref, len(diffs), len(img.Manifest.Layers))
	}
	var snap layer.Snapshot
	for i, desc := range img.Manifest.Layers {
		id, err := s.BlobLayer(ctx, diffs[i], desc)
		if err != nil {
			return nil, err
		}
		snap = append(snap, id)
	}
	return snap, nil
}
