package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// maxScanned is how long a file may be that is read out of a compressed blob: it is in memory.
const maxScanned = 128 << 20

// scanned reads files of a layer in blob form as [Store.contentOf] does, but never unpacks it: a file of a compressed blob is looked for
// in the stream, which is read as far as the file.
func (s *Store) scanned(ctx context.Context, info LayerInfo) func(*layer.IndexEntry) (io.ReadCloser, error) {
	placed := s.contentOf(ctx, info)
	return func(e *layer.IndexEntry) (io.ReadCloser, error) {
		if e.Offset >= 0 && s.HasBlob(info.DiffID) {
			return placed(e)
		}
		blobs, err := s.presentBlobs(ctx, info)
		if err != nil {
			return nil, err
		}
		if len(blobs) == 0 {
			return placed(e)
		}
		data, err := s.scan(ctx, blobs[0].Descriptor, e)
		if err != nil {
			return nil, ofLayer(info, fmt.Errorf("reading %s: %w", e.Path, err))
		}
		return layer.Bytes(data).Open()
	}
}

// scan reads one file out of a blob.
func (s *Store) scan(ctx context.Context, blob ocispec.Descriptor, e *layer.IndexEntry) ([]byte, error) {
	if e.Size > maxScanned {
		return nil, fmt.Errorf("it has %d bytes, and is read only up to %d", e.Size, maxScanned)
	}
	r, err := s.OpenBlob(ctx, blob.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := layer.Decompress(layer.ContextReader(ctx, r))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f := &finder{name: e.Path}
	if _, err := layer.ReadTar(plain, layer.TarOptions{}, f); err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	switch {
	case f.data == nil:
		return nil, os.ErrNotExist
	case e.Digest != "" && digest.FromBytes(f.data) != e.Digest: // the rest of the blob was not looked at
		return nil, errors.Join(ErrDamaged, s.dropBlob(blob.Digest))
	}
	return f.data, nil
}

var errFound = errors.New("found")

// finder is a sink that reads one file. One that comes again takes the place of the first, and is not seen: its digest tells.
type finder struct {
	name string
	data []byte
}

func (f *finder) Add(e *layer.Entry) error {
	if e.Path != f.name || !e.IsRegular() || e.Hardlink {
		return nil
	}
	r, err := layer.OpenContent(e)
	if err != nil {
		return err
	}
	defer r.Close()
	if f.data, err = io.ReadAll(io.LimitReader(r, maxScanned)); err != nil {
		return err
	}
	return errFound
}

func (f *finder) Close() error { return nil }
