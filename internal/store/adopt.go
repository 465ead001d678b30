package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AdoptBlob makes a file below [Store.TempDir], whose content the caller has verified to be what desc says,
// a blob. The file is gone afterwards, unless there is an error.
func (s *Store) AdoptBlob(ctx context.Context, path string, desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("keeping blob %q: %w", desc.Digest, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.blobPath(desc.Digest)), 0o700); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	s.grown(desc.Size)
	if err := s.placeBlob(ctx, path, desc.Digest, desc.Size); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	return nil
}
