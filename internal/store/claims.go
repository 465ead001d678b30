package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// What an image, an archive or a cache says of a layer, that the content of a blob has a diffID, is a
// claim. It belongs to whoever makes it: a layer that is named by a blob is that blob's, with the type
// and the size that came with it, and no other blob is ever taken for a form of it but those that were
// made here once its content was seen to have the diffID. A claim that turns out false is forgotten with
// its layer. So whatever others say of a diffID, nobody gets their blob for it.

// BlobLayer returns the layer that is the content of a blob, which is said to have the given diffID, and
// makes one, in blob form only, when there is none. The blob itself may still be missing; it must be here
// when a form of the layer is asked for. A blob that was made here is a form of the layer that it was made of.
func (s *Store) BlobLayer(ctx context.Context, diffID digest.Digest, blob ocispec.Descriptor) (layer.ID, error) {
	return s.BlobLayerOf(ctx, diffID, blob, time.Time{})
}

// BlobLayerOf is [Store.BlobLayer] for a layer that was made at a time: it takes no layer for it that
// was made at another one, since images tell the times of their layers. The zero time is any.
func (s *Store) BlobLayerOf(ctx context.Context, diffID digest.Digest, blob ocispec.Descriptor, created time.Time) (layer.ID, error) {
	if err := errors.Join(diffID.Validate(), blob.Digest.Validate()); err != nil {
		return "", fmt.Errorf("layer of diffID %q in blob %q: %w", diffID, blob.Digest, err)
	}
	info := LayerInfo{DiffID: diffID, Size: -1, Created: created,
		Blob: ocispec.Descriptor{MediaType: ociMediaType(blob.MediaType), Digest: blob.Digest, Size: blob.Size}}
	for {
		id, err := s.blobLayer(ctx, info)
		if err != nil {
			return "", err
		}
		if said, err := s.holdLayers(id); err != nil || !said {
			return id, err
		}
	}
}

// blobLayer finds the layer that info describes, or makes one.
func (s *Store) blobLayer(ctx context.Context, info LayerInfo) (layer.ID, error) {
	id, found, err := s.findBlobLayer(s.db, info)
	if err != nil || found {
		return id, err
	}
	l, err := s.current()
	if err != nil {
		return "", err
	}
	err = s.update(ctx, func(tx *sql.Tx) error {
		if id, found, err = s.findBlobLayer(tx, info); err != nil || found {
			return err
		}
		var made bool
		err := tx.QueryRow("SELECT EXISTS(SELECT 1 FROM layer_blobs WHERE diff_id=? AND digest=?)", info.DiffID.String(), info.Blob.Digest.String()).Scan(&made)
		if err != nil {
			return fmt.Errorf("looking for layer %s: %w", info.DiffID, err)
		}
		if info.Created.IsZero() {
			info.Created = time.Now()
		}
		id = layer.ID(l.name())
		info.ID, info.Claimed = id, !made
		return s.putLayer(tx, info)
	})
	return id, err
}

// findBlobLayer finds the layer that is the content of a blob, or that the blob was made of here.
func (s *Store) findBlobLayer(q interface {
	QueryRow(query string, args ...any) *sql.Row
}, of LayerInfo) (id layer.ID, found bool, err error) {
	at := int64(0)
	if !of.Created.IsZero() {
		at = of.Created.UnixNano()
	}
	err = q.QueryRow("SELECT id FROM layers l WHERE diff_id=?1 AND (?2=0 OR created=?2) AND (blob=?3 AND media_type=?4 AND blob_size=?5"+
		" OR blob='' AND EXISTS(SELECT 1 FROM layer_blobs WHERE diff_id=?1 AND digest=?3)) ORDER BY claimed, dir DESC, id LIMIT 1",
		of.DiffID.String(), at, of.Blob.Digest.String(), of.Blob.MediaType, of.Blob.Size).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("looking for layer %s: %w", of.DiffID, err)
	}
	return id, true, nil
}

// ociMediaType returns the OCI name of a layer's type: images have Docker's for the same blob, and others for
// layers that may not be redistributed. As in BuildKit, what is built on those is a whole image.
func ociMediaType(mediaType string) string {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar":
		return ocispec.MediaTypeImageLayer
	case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip":
		return ocispec.MediaTypeImageLayerGzip
	case "application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// Verified records what whoever has read a layer's blob through has seen: that its content has the diffID,
// and how many bytes its regular files have.
func (s *Store) Verified(ctx context.Context, id layer.ID, bytes int64) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET claimed=0, size=? WHERE id=?", bytes, string(id))
		return err
	})
}

// LayerError is an error about one layer, of which no form could be had.
type LayerError struct {
	// DiffID and Blob are what the layer is said to be; both are empty when it is not known.
	DiffID, Blob digest.Digest
	err          error
}

func (e *LayerError) Error() string { return e.err.Error() }
func (e *LayerError) Unwrap() error { return e.err }

// ofLayer says which layer an error is about.
func ofLayer(info LayerInfo, err error) error {
	if err == nil {
		return nil
	}
	return &LayerError{info.DiffID, info.Blob.Digest, err}
}

// ErrFalse marks a diffID that a blob was said to have and has not.
var ErrFalse = errors.New("what the layer came with is wrong about it")

// settle ends the reading of the blob of a claimed layer: the claim is true, or it is forgotten. err is that
// of the reading.
func (s *Store) settle(ctx context.Context, info LayerInfo, err error) error {
	if !info.Claimed || err != nil && !errors.Is(err, ErrFalse) {
		return err
	}
	query := "UPDATE layers SET claimed=0 WHERE id=?"
	if err != nil {
		// A process that saw the same blob with another eye has a directory of it, and keeps it.
		query = "DELETE FROM layers WHERE id=? AND claimed"
	}
	uerr := s.update(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		_, err := tx.Exec(query, string(info.ID))
		return err
	})
	return errors.Join(err, uerr)
}
