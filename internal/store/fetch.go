package store

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// Fetch brings the blob of a layer into the store by [Store.WriteBlob].
type Fetch func(ctx context.Context) error

// SetFetch says how to get the blob of a layer that has no form here. It is called when a form is
// asked for, and until [Store.EndPlans].
func (s *Store) SetFetch(id layer.ID, f Fetch) { s.fetches.Store(id, f) }

// fetcher returns how to get a layer's blob, once however many ask at the same time; nil when
// nobody knows.
func (s *Store) fetcher(id layer.ID) Fetch {
	f, ok := s.fetches.Load(id)
	if !ok {
		return nil
	}
	return func(ctx context.Context) error {
		_, err, _ := s.work.Do("fetch:"+string(id), func() (any, error) { return nil, f.(Fetch)(ctx) })
		return err
	}
}

// presentBlobs returns the blobs of a layer that are here, and fetches one when there are none and
// somebody knows how.
func (s *Store) presentBlobs(ctx context.Context, info LayerInfo) ([]ocispec.Descriptor, error) {
	blobs, err := s.layerBlobs(ctx, info.DiffID)
	if err != nil || len(blobs) > 0 {
		return blobs, err
	}
	fetch := s.fetcher(info.ID)
	if fetch == nil {
		return nil, nil
	}
	if err := fetch(ctx); err != nil {
		return nil, err
	}
	return s.layerBlobs(ctx, info.DiffID)
}

// unpackFetched unpacks a layer while it is being fetched. It reports false when somebody else
// was fetching the blob already, or had it: then it is there now, to be unpacked as any other.
func (s *Store) unpackFetched(ctx context.Context, info LayerInfo, sink layer.Sink) (bool, error) {
	fetch := s.fetcher(info.ID)
	known, err := s.knownBlobs(ctx, info.DiffID)
	if err != nil || fetch == nil || len(known) != 1 {
		return false, err
	}
	pr, pw := io.Pipe()
	defer pr.Close()
	t := &tap{w: pw}
	if _, taken := s.taps.LoadOrStore(known[0].Digest, t); taken {
		return false, fetch(ctx)
	}
	defer s.taps.Delete(known[0].Digest)
	fetched := make(chan error, 1)
	go func() {
		err := fetch(ctx)
		pw.CloseWithError(err) // nil is the regular end
		fetched <- err
	}()
	rerr := s.readLayerStream(ctx, pr, info.DiffID, sink)
	pr.Close() // a reader that gave up must not keep the blob from being written
	if err := <-fetched; err != nil {
		return false, err
	}
	if t.bytes.Load() == 0 {
		return false, nil
	}
	return true, rerr
}

// tap is somebody who reads a blob along while it is written.
type tap struct {
	w     *io.PipeWriter
	bytes atomic.Int64
	gone  atomic.Bool
}

// Write hands bytes on as long as somebody reads them. It never fails: the blob is written anyway.
func (t *tap) Write(p []byte) (int, error) {
	if !t.gone.Load() {
		n, err := t.w.Write(p)
		t.bytes.Add(int64(n))
		if err != nil {
			t.gone.Store(true)
		}
	}
	return len(p), nil
}

// tapped adds the tap of a blob, if it has one, to where the blob is written. Of several that
// write the same blob at the same time one has the tap.
func (s *Store) tapped(d digest.Digest, w io.Writer) io.Writer {
	if t, ok := s.taps.LoadAndDelete(d); ok {
		return io.MultiWriter(w, t.(*tap))
	}
	return w
}

// knownBlobs returns the descriptors of a layer's blobs, whether or not they are here.
func (s *Store) knownBlobs(ctx context.Context, diffID digest.Digest) ([]ocispec.Descriptor, error) {
	if diffID == "" {
		return nil, nil
	}
	rows, err := s.db.QueryContext(ctx, "SELECT digest,media_type,size FROM layer_blobs WHERE diff_id=? ORDER BY digest", diffID.String())
	if err != nil {
		return nil, fmt.Errorf("looking for blobs of %s: %w", diffID, err)
	}
	defer rows.Close()
	var all []ocispec.Descriptor
	for rows.Next() {
		var d string
		var desc ocispec.Descriptor
		if err := rows.Scan(&d, &desc.MediaType, &desc.Size); err != nil {
			return nil, fmt.Errorf("looking for blobs of %s: %w", diffID, err)
		}
		desc.Digest = digest.Digest(d)
		all = append(all, desc)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("looking for blobs of %s: %w", diffID, err)
	}
	return all, nil
}

// layerBlobs returns the known blobs with the diffID that are in the store.
func (s *Store) layerBlobs(ctx context.Context, diffID digest.Digest) ([]ocispec.Descriptor, error) {
	all, err := s.knownBlobs(ctx, diffID)
	if err != nil {
		return nil, err
	}
	have := all[:0]
	for _, desc := range all {
		if s.HasBlob(desc.Digest) {
			have = append(have, desc)
		}
	}
	return have, nil
}
