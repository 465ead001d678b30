package store

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// Here reports whether the layers of a snapshot can be used without fetching anything.
func (s *Store) Here(ctx context.Context, snap layer.Snapshot) (bool, error) {
	for _, id := range snap {
		if s.plan(id) != nil {
			continue
		}
		switch err := s.Check(ctx, layer.Snapshot{id}); {
		case errors.Is(err, ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		}
	}
	return true, nil
}

// AbsentBlob describes the blob of a layer of which nothing is here, as it is known from the
// manifest or cache that named it. found is false for a layer that has a form here, or none
// anywhere: [Store.Blob] makes its blob, or says why it cannot.
func (s *Store) AbsentBlob(ctx context.Context, id layer.ID) (desc ocispec.Descriptor, diffID digest.Digest, found bool, err error) {
	here, err := s.Here(ctx, layer.Snapshot{id})
	if err != nil || here {
		return desc, "", false, err
	}
	info, err := s.Layer(ctx, id)
	if err != nil {
		return desc, "", false, err
	}
	blobs, err := s.knownBlobs(ctx, info)
	if err != nil || len(blobs) == 0 {
		return desc, "", false, err
	}
	return blobs[0].Descriptor, info.DiffID, true, nil
}
