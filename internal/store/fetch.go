package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// Fetch brings the blob of a layer into the store by [Store.WriteBlob].
type Fetch func(ctx context.Context) error

// fetcher is a Fetch that may be forgotten while it runs.
type fetcher struct {
	fetch   Fetch
	ended   context.Context
	end     context.CancelCauseFunc
	running sync.WaitGroup
}

// fetchers are all that know how to get a layer, the first one first.
type fetchers struct {
	mu sync.Mutex
	of map[layer.ID][]*fetcher
}

var errForgotten = errors.New("nobody wants to fetch the layer any more")

// SetFetch says how to get the blob of a layer that has no form here. It is called when a form is
// asked for, also by others than the caller, until forget is called. Of several ways to get one
// layer one is used that works. After forget, which waits for that, f is not running any more; whoever needs
// the layer goes on by another way that was set.
func (s *Store) SetFetch(id layer.ID, f Fetch) (forget func()) {
	e := &fetcher{fetch: f}
	e.ended, e.end = context.WithCancelCause(context.Background())
	s.fetches.mu.Lock()
	defer s.fetches.mu.Unlock()
	if s.fetches.of == nil {
		s.fetches.of = map[layer.ID][]*fetcher{}
	}
	s.fetches.of[id] = append(s.fetches.of[id], e)
	return func() {
		s.fetches.mu.Lock()
		rest := slices.DeleteFunc(s.fetches.of[id], func(o *fetcher) bool { return o == e })
		if s.fetches.of[id] = rest; len(rest) == 0 {
			delete(s.fetches.of, id)
		}
		s.fetches.mu.Unlock()
		e.end(errForgotten)
		e.running.Wait()
	}
}

// fetchable reports whether somebody knows how to get a layer's blob.
func (s *Store) fetchable(id layer.ID) bool {
	s.fetches.mu.Lock()
	defer s.fetches.mu.Unlock()
	return len(s.fetches.of[id]) > 0
}

// fetch gets a layer's blob, once however many ask at the same time. It does nothing when nobody
// knows how. Of those who do each is asked until one has it: they may be of several builds, of which one is not given it, or goes. The
// first error counts.
func (s *Store) fetch(ctx context.Context, id layer.ID) error {
	_, err := s.once(ctx, "fetch:"+string(id), func(ctx context.Context) (_ any, first error) {
		tried := map[*fetcher]bool{}
		for f := s.fetcher(id, tried); f != nil; f = s.fetcher(id, tried) {
			forgotten, err := f.run(ctx)
			if err == nil || ctx.Err() != nil {
				return nil, err
			}
			if !forgotten && first == nil {
				first = err
			}
			tried[f] = true
		}
		return nil, first
	})
	return err
}

// fetcher is the first one of a layer that was not tried, which is run then; nil if there is none.
func (s *Store) fetcher(id layer.ID, tried map[*fetcher]bool) *fetcher {
	s.fetches.mu.Lock()
	defer s.fetches.mu.Unlock()
	for _, f := range s.fetches.of[id] {
		if !tried[f] {
			f.running.Add(1)
			return f
		}
	}
	return nil
}

// run fetches, unless that is forgotten.
func (f *fetcher) run(ctx context.Context) (forgotten bool, err error) {
	defer f.running.Done()
	fctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(f.ended, func() { cancel(errForgotten) })()
	err = f.fetch(fctx)
	return err != nil && f.ended.Err() != nil && ctx.Err() == nil, err
}

// presentBlobs returns the blobs of a layer that are here, and fetches one when there are none and
// somebody knows how.
func (s *Store) presentBlobs(ctx context.Context, info LayerInfo) ([]layerBlob, error) {
	blobs, err := s.layerBlobs(ctx, info)
	if err != nil || len(blobs) > 0 {
		return blobs, err
	}
	if !s.fetchable(info.ID) {
		return nil, nil
	}
	if err := s.fetch(ctx, info.ID); err != nil {
		return nil, err
	}
	return s.layerBlobs(ctx, info)
}

// Elsewhere returns the blob of a layer of which nothing is here, but which could be fetched, and its
// diffID; found is false for any other layer.
func (s *Store) Elsewhere(ctx context.Context, id layer.ID) (blob ocispec.Descriptor, diffID digest.Digest, found bool, err error) {
	info, err := s.Layer(ctx, id)
	if err != nil || info.DiffID == "" || !s.fetchable(id) {
		return blob, "", false, err
	}
	known, err := s.knownBlobs(ctx, info)
	if err != nil || len(known) == 0 || slices.ContainsFunc(known, func(b layerBlob) bool { return s.HasBlob(b.Digest) }) {
		return blob, "", false, err
	}
	return known[0].Descriptor, info.DiffID, info.Blob.Digest != "" || len(known) == 1, nil
}

// errTap says that the blob is here, but that reading it while it came went wrong.
var errTap = errors.New("reading the layer while it was fetched")

// unpackFetched unpacks a layer while it is being fetched. It reports false when somebody else
// was fetching the blob already, or had it: then it is there now, to be unpacked as any other.
// The same holds after errTap, but the sink cannot be used again.
func (s *Store) unpackFetched(ctx context.Context, info LayerInfo, sink layer.Sink) (stacking layer.Stacking, done bool, _ error) {
	known, err := s.knownBlobs(ctx, info)
	if err != nil || len(known) == 0 || info.Blob.Digest == "" && len(known) > 1 || !s.fetchable(info.ID) {
		return stacking, false, err
	}
	pr, pw := io.Pipe()
	defer pr.Close()
	t := &tap{w: pw}
	if _, taken := s.taps.LoadOrStore(known[0].Digest, t); taken {
		return stacking, false, s.fetch(ctx, info.ID)
	}
	defer s.taps.CompareAndDelete(known[0].Digest, t)
	fetched := make(chan error, 1)
	go func() {
		err := s.fetch(ctx, info.ID)
		pw.CloseWithError(err) // nil is the regular end
		fetched <- err
	}()
	stacking, rerr := s.readLayerStream(ctx, pr, info.DiffID, sink)
	pr.Close() // a reader that gave up must not keep the blob from being written
	if err := <-fetched; err != nil {
		return stacking, false, err
	}
	if t.bytes.Load() == 0 {
		return stacking, false, nil
	}
	if rerr != nil {
		return stacking, false, fmt.Errorf("%w: %w", errTap, rerr)
	}
	return stacking, true, nil
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

// tapped adds the tap of a blob, if it has one, to where the blob is read from. Of several that
// write the same blob at the same time one has the tap.
func (s *Store) tapped(d digest.Digest, r io.Reader) io.Reader {
	if t, ok := s.taps.LoadAndDelete(d); ok {
		return io.TeeReader(r, t.(*tap))
	}
	return r
}

// pulledLevel is the level of blobs that were made elsewhere.
const pulledLevel = -1

// layerBlob is a blob that is a form of a layer, with how it was compressed here (layer.Encoding.Made), or
// pulledLevel.
type layerBlob struct {
	ocispec.Descriptor
	level int
}

// knownBlobs returns the descriptors of a layer's blobs, whether or not they are here: the one that it came
// as, which is what can be fetched, then those that were made of it here. What was made of a layer whose
// content is known is no form of one of which the same is only said.
func (s *Store) knownBlobs(ctx context.Context, info LayerInfo) ([]layerBlob, error) {
	var all []layerBlob
	if info.Blob.Digest != "" {
		all = append(all, layerBlob{info.Blob, pulledLevel})
	}
	if info.DiffID == "" || info.Claimed {
		return all, nil
	}
	rows, err := s.db.QueryOften(ctx, "SELECT digest,media_type,size,level FROM layer_blobs WHERE diff_id=? AND digest!=? ORDER BY digest",
		info.DiffID.String(), info.Blob.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("looking for blobs of %s: %w", info.DiffID, err)
	}
	defer rows.Close()
	for rows.Next() {
		var b layerBlob
		if err := rows.Scan(&b.Digest, &b.MediaType, &b.Size, &b.level); err != nil {
			return nil, fmt.Errorf("looking for blobs of %s: %w", info.DiffID, err)
		}
		all = append(all, b)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("looking for blobs of %s: %w", info.DiffID, err)
	}
	return all, nil
}

// Blobs describes all known blobs of a layer, whether or not they are here.
func (s *Store) Blobs(ctx context.Context, id layer.ID) ([]ocispec.Descriptor, error) {
	info, err := s.Layer(ctx, id)
	if err != nil {
		return nil, err
	}
	known, err := s.knownBlobs(ctx, info)
	all := make([]ocispec.Descriptor, len(known))
	for i, b := range known {
		all[i] = b.Descriptor
	}
	return all, err
}

// layerBlobs returns the known blobs of a layer that are in the store.
func (s *Store) layerBlobs(ctx context.Context, info LayerInfo) ([]layerBlob, error) {
	all, err := s.knownBlobs(ctx, info)
	return slices.DeleteFunc(all, func(b layerBlob) bool { return !s.HasBlob(b.Digest) }), err
}
