package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// AdoptBlob makes a file below [Store.TempDir], whose content the caller has verified to be what desc says,
// a blob. The file is gone afterwards, unless there is an error.
func (s *Store) AdoptBlob(ctx context.Context, path string, desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("keeping blob %q: %w", desc.Digest, err)
	}
	to := s.blobPath(desc.Digest)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	if err := os.Rename(path, to); err != nil {
		return fmt.Errorf("keeping blob %s: %w", desc.Digest, err)
	}
	return s.recordBlob(ctx, desc.Digest, desc.Size)
}

// SetSize records how many bytes the regular files of a layer have, for whoever has read it already.
func (s *Store) SetSize(ctx context.Context, id layer.ID, bytes int64) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET size=? WHERE id=?", bytes, string(id))
		return err
	})
}
