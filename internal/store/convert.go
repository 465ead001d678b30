package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/meter"
)

// unpack makes the directory form of a layer from one of its blobs, or while the blob is being
// fetched. The diffID is verified.
func (s *Store) unpack(ctx context.Context, info LayerInfo) error {
	if err := s.unpacking.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer s.unpacking.Release(1)
	metered := meter.Begin(ctx, meter.Unpack, string(info.ID))
	blobs, err := s.layerBlobs(ctx, info)
	if err != nil {
		return err
	}
	var stacking layer.Stacking
	count, tap := &countingSink{}, len(blobs) == 0
	unpack := func(sink layer.Sink) (err error) {
		*count = countingSink{Sink: sink}
		if tap {
			var done bool
			if stacking, done, err = s.unpackFetched(ctx, info, count); err != nil || done {
				return err
			}
		}
		if len(blobs) == 0 {
			if blobs, err = s.presentBlobs(ctx, info); err != nil {
				return err
			}
		}
		if len(blobs) == 0 {
			return fmt.Errorf("no blob of it is in the store: %w", ErrNotFound)
		}
		stacking, err = s.readLayerBlob(ctx, blobs[0].Descriptor, info.DiffID, count)
		return err
	}
	d, err := s.fillDraft(ctx, info.ID, unpack)
	if errors.Is(err, errTap) && ctx.Err() == nil { // the blob itself says what is wrong, if anything is
		tap = false
		d, err = s.fillDraft(ctx, info.ID, unpack)
	}
	if err != nil {
		return fmt.Errorf("unpacking layer %s: %w", info.DiffID, s.settle(ctx, info, err))
	}
	defer d.Abort()
	if err := s.putStacking(info.ID, stacking); err != nil {
		return err
	}
	info.Dir, info.Size, info.Claimed = true, count.bytes, false
	metered(info.Blob.Size, count.bytes)
	return d.record(ctx, info)
}

// readLayerBlob hands the entries of a blob to sink. Both the blob's digest and the diffID of
// the uncompressed stream are verified before it returns nil.
func (s *Store) readLayerBlob(ctx context.Context, blob ocispec.Descriptor, diffID digest.Digest, sink layer.Sink) (layer.Stacking, error) {
	r, err := s.OpenBlob(ctx, blob.Digest)
	if err != nil {
		return layer.Stacking{}, err
	}
	defer r.Close()
	stacking, err := s.readLayerStream(ctx, r, diffID, sink)
	return stacking, damageIn(ctx, r, err)
}

// damageIn returns ErrDamaged in place of an error of reading a blob that comes from damage, which
// only the whole blob's digest tells.
func damageIn(ctx context.Context, blob io.Reader, err error) error {
	if err == nil || errors.Is(err, ErrDamaged) {
		return err
	}
	if _, derr := io.Copy(io.Discard, layer.ContextReader(ctx, blob)); errors.Is(derr, ErrDamaged) {
		return derr
	}
	return err
}

// readLayerStream is readLayerBlob for a stream, which it reads to its end.
func (s *Store) readLayerStream(ctx context.Context, r io.Reader, diffID digest.Digest, sink layer.Sink) (layer.Stacking, error) {
	stacking, got, err := readLayer(ctx, r, algorithm(diffID), sink)
	if err != nil {
		return stacking, err
	}
	return stacking, haveDiffID(got, diffID)
}

// readLayer hands the entries of a blob to sink, and returns the digest of the uncompressed stream. It reads r to its end.
func readLayer(ctx context.Context, r io.Reader, alg digest.Algorithm, sink layer.Sink) (layer.Stacking, digest.Digest, error) {
	plain, err := layer.Decompress(layer.ContextReader(ctx, r))
	if err != nil {
		return layer.Stacking{}, "", err
	}
	defer plain.Close()
	hash := newAsyncHash(alg, nil)
	defer hash.Digest() // ends its goroutine
	tee := io.TeeReader(plain, hash)
	stacking, err := layer.ReadTar(tee, layer.TarOptions{}, sink)
	if err != nil {
		return stacking, "", err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what follows the compressed stream
		return stacking, "", err
	}
	return stacking, hash.Digest(), nil
}

func haveDiffID(got, want digest.Digest) error {
	if got != want {
		return fmt.Errorf("failed to verify layer: expected diffID %s, got %s: %w", want, got, ErrFalse)
	}
	return nil
}

// ctxWriter is a [layer.ContextReader] for what is written: one file may be large.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *ctxWriter) Write(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.w.Write(p)
}

// countingSink adds up the sizes of regular files, which is the layer's size as Docker counts it.
type countingSink struct {
	layer.Sink
	bytes int64
}

func (c *countingSink) Add(e *layer.Entry) error {
	if e.IsRegular() && !e.Hardlink {
		c.bytes += e.Size
	}
	return c.Sink.Add(e)
}

// Blob returns a blob form of a layer, with its diffID. A blob that was pulled is used as it is,
// whatever its compression; one that was made here is made, once per layer and compression, and
// kept.
func (s *Store) Blob(ctx context.Context, id layer.ID, encoding layer.Encoding) (ocispec.Descriptor, digest.Digest, error) {
	info, err := s.Layer(ctx, id)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	if p := s.plan(id); p != nil && p.both && info.DiffID == "" { // on the way
		if _, err := s.Dir(ctx, id); err != nil {
			return ocispec.Descriptor{}, "", err
		}
	}
	v, err := s.once(ctx, fmt.Sprintf("blob:%s:%v", id, encoding), func(ctx context.Context) (any, error) { return s.makeBlob(ctx, id, encoding) })
	if err != nil {
		return ocispec.Descriptor{}, "", ofLayer(info, err)
	}
	a := v.(blobForm)
	return a.desc, a.diff, nil
}

// blobForm is a blob of a layer, and the layer's diffID.
type blobForm struct {
	desc ocispec.Descriptor
	diff digest.Digest
}

// makeBlob finds the blob form of a layer, or makes it.
func (s *Store) makeBlob(ctx context.Context, id layer.ID, encoding layer.Encoding) (blobForm, error) {
	info, err := s.Layer(ctx, id) // another call may have made it in the meantime
	if err != nil {
		return blobForm{}, err
	}
	blobs, err := s.presentBlobs(ctx, info)
	if err != nil {
		// A layer that was made here, and that an image in a registry may be thought to have, is
		// packed again. One that was pulled was packed by others, and has another tar.
		desc, perr := s.packAgain(ctx, info)
		if perr != nil {
			return blobForm{}, err
		}
		blobs = []layerBlob{{Descriptor: desc}}
	}
	if !encoding.Force { // compressed as it was pulled, whatever others have made of it since
		for _, b := range blobs {
			if b.Digest == info.Blob.Digest && b.MediaType != ocispec.MediaTypeImageLayer {
				return blobForm{b.Descriptor, info.DiffID}, nil
			}
		}
	}
	want := layerMediaType(encoding.Compression)
	pulled := len(blobs) > 0
	for _, b := range blobs {
		if compressionOf(b.MediaType) == encoding.Compression && (b.level == encoding.Made() || b.level == pulledLevel) {
			return blobForm{b.Descriptor, info.DiffID}, nil
		}
		pulled = pulled && b.MediaType != ocispec.MediaTypeImageLayer
	}
	if pulled && !encoding.Force {
		return blobForm{blobs[0].Descriptor, info.DiffID}, nil
	}
	if info.DiffID == "" || len(blobs) == 0 {
		desc, err := s.pack(ctx, id, "")
		if err != nil || want == desc.MediaType {
			return blobForm{desc, desc.Digest}, err
		}
		info, blobs = LayerInfo{ID: id, DiffID: desc.Digest}, []layerBlob{{Descriptor: desc}}
	}
	desc, err := s.compress(ctx, blobs[0].Descriptor, info, encoding)
	return blobForm{desc, info.DiffID}, err
}

// packAgain makes the plain tar of a layer whose blob is lost from its directory.
func (s *Store) packAgain(ctx context.Context, info LayerInfo) (ocispec.Descriptor, error) {
	if !info.Dir || info.DiffID == "" {
		return ocispec.Descriptor{}, fmt.Errorf("packing layer %s: %w", info.ID, ErrNotFound)
	}
	return s.pack(ctx, info.ID, info.DiffID)
}

// MissingBlobs reports whether a layer of a snapshot has had a blob that is not here.
func (s *Store) MissingBlobs(ctx context.Context, snap layer.Snapshot) (bool, error) {
	for _, id := range snap {
		info, err := s.Layer(ctx, id)
		if err != nil {
			return false, err
		}
		if info.DiffID == "" {
			continue
		}
		if blobs, err := s.layerBlobs(ctx, info); err != nil || len(blobs) == 0 {
			return err == nil, err
		}
	}
	return false, nil
}

func layerMediaType(c layer.Compression) string {
	switch c {
	case layer.Gzip:
		return ocispec.MediaTypeImageLayerGzip
	case layer.Zstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return ocispec.MediaTypeImageLayer
}

// compressionOf tells the compression from an OCI or Docker media type.
func compressionOf(mediaType string) layer.Compression {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return layer.Gzip
	case strings.HasSuffix(mediaType, "zstd"):
		return layer.Zstd
	}
	return layer.Uncompressed
}

// compress makes a blob of a layer out of another one, of whatever compression that is.
func (s *Store) compress(ctx context.Context, from ocispec.Descriptor, info LayerInfo, e layer.Encoding) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: layerMediaType(e.Compression)}
	metered := meter.Begin(ctx, meter.Compress, string(info.ID))
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return desc, err
	}
	defer w.Abort()
	if err := s.settle(ctx, info, s.recompress(ctx, from, info, w, e)); err != nil {
		return desc, fmt.Errorf("compressing layer %s: %w", info.DiffID, err)
	}
	if desc.Digest, err = w.Commit(ctx); err != nil {
		return desc, err
	}
	desc.Size = w.Size()
	metered(from.Size, desc.Size)
	return desc, s.update(ctx, func(tx *sql.Tx) error { return putLayerBlob(tx, info.DiffID, desc, e.Made()) })
}

// recompress writes the content of a layer's blob to w. The blob's digest is verified, and the diffID
// where it is only said that the layer has it.
func (s *Store) recompress(ctx context.Context, from ocispec.Descriptor, info LayerInfo, w io.Writer, e layer.Encoding) error {
	blob, err := s.OpenBlob(ctx, from.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	r, err := layer.Decompress(blob)
	if err != nil {
		return damageIn(ctx, blob, err)
	}
	defer r.Close()
	cw, err := layer.Compress(w, e)
	if err != nil {
		return err
	}
	plain, verify := io.Reader(r), func() error { return nil }
	if info.Claimed {
		hash := newAsyncHash(algorithm(info.DiffID), nil)
		defer hash.Digest() // ends its goroutine
		plain, verify = io.TeeReader(r, hash), func() error { return haveDiffID(hash.Digest(), info.DiffID) }
	}
	_, err = io.CopyBuffer(cw, layer.ContextReader(ctx, plain), make([]byte, 256<<10))
	if err = errors.Join(err, cw.Close(), r.Close()); err == nil { // closed, so that nobody else reads the blob
		_, err = io.Copy(io.Discard, blob) // what follows the compressed stream
	}
	if err == nil {
		err = verify()
	}
	return damageIn(ctx, blob, err)
}

// putLayerBlob records a blob that was made here of what has the diffID, with its encoding's [layer.Encoding.Made].
func putLayerBlob(tx *sql.Tx, diffID digest.Digest, desc ocispec.Descriptor, level int) error {
	_, err := tx.Exec("INSERT INTO layer_blobs(diff_id,digest,media_type,size,level) VALUES(?,?,?,?,?) ON CONFLICT(diff_id,digest) DO UPDATE SET level=excluded.level",
		diffID.String(), desc.Digest.String(), desc.MediaType, desc.Size, level)
	return err
}

// pack makes the plain tar of a layer, and its index on the way: of its plan while there is one,
// otherwise of its directory. want, unless it is "", is the digest that it must have.
func (s *Store) pack(ctx context.Context, id layer.ID, want digest.Digest) (ocispec.Descriptor, error) {
	write, p, done, err := s.entries(ctx, id)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer done()
	metered := meter.Begin(ctx, meter.Pack, string(id))
	t, err := s.newTarForm(ctx, id)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer t.abort()
	if err := t.write(write); err != nil {
		return ocispec.Descriptor{}, err
	}
	if p != nil && s.verifyForms {
		if err := s.verifyPlan(ctx, p, id, t.blob.Digest()); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	if got := t.blob.Digest(); want != "" && got != want {
		return ocispec.Descriptor{}, fmt.Errorf("packing layer %s: its tar is %s, want %s", id, got, want)
	}
	desc, err := t.record(ctx)
	metered(t.index.Size(), desc.Size)
	return desc, err
}

// tarForm is the plain tar of a layer that is being made, with its index.
type tarForm struct {
	s     *Store
	ctx   context.Context
	info  LayerInfo
	blob  *BlobWriter // abort ends it
	tar   *layer.TarWriter
	index *layer.IndexWriter
}

func (s *Store) newTarForm(ctx context.Context, id layer.ID) (*tarForm, error) {
	info, err := s.Layer(ctx, id)
	if err != nil {
		return nil, err
	}
	tmp, err := s.leaseDir()
	if err != nil {
		return nil, err
	}
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return nil, err
	}
	t := &tarForm{s: s, ctx: ctx, info: info, blob: w}
	t.tar, t.index = layer.NewIndexedTarWriter(&ctxWriter{ctx: ctx, w: w}, tmp)
	return t, nil
}

// abort drops what was not recorded. There may be nothing.
func (t *tarForm) abort() {
	if t != nil {
		t.blob.Abort()
	}
}

// write writes the entries that write gives, to others too.
func (t *tarForm) write(write func(layer.Sink) error, others ...layer.Sink) error {
	ahead := layer.NewAhead(t.tar, others...)
	err := write(&ctxSink{ctx: t.ctx, Sink: ahead})
	if err := errors.Join(err, ahead.Close()); err != nil {
		return fmt.Errorf("packing layer %s: %w", t.info.ID, err)
	}
	return nil
}

// record makes what was written a form of the layer.
func (t *tarForm) record(ctx context.Context) (desc ocispec.Descriptor, err error) {
	s, info, w := t.s, t.info, t.blob
	d, err := w.Commit(ctx)
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: w.Size()}
	info.DiffID, info.Size, info.Dir = d, t.index.Size(), false // no directory was made
	if err := s.putIndex(info.ID, t.index); err != nil {
		return desc, err
	}
	err = s.update(ctx, func(tx *sql.Tx) error {
		if err := putLayerBlob(tx, d, desc, 0); err != nil {
			return err
		}
		return s.putLayer(tx, info)
	})
	if err != nil { // see writePlan
		index := s.indexPath(info.ID)
		return desc, errors.Join(err, os.Remove(index), removeEmpty(filepath.Dir(index)))
	}
	return desc, nil
}

// entries returns what writes the entries of a layer: its plan p while there is one and nothing else,
// otherwise its directory form. done ends the use.
func (s *Store) entries(ctx context.Context, id layer.ID) (write func(layer.Sink) error, p *plan, done func(), err error) {
	info, err := s.Layer(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	if p, done = s.usePlan(id); p != nil && !info.Dir {
		return p.src.WriteTo, p, done, nil
	}
	dir, err := s.Dir(ctx, id)
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return func(sink layer.Sink) error { return layer.WriteTree(s.dirTree(dir), sink) }, p, done, nil
}

// discardSink counts without writing.
type discardSink struct{}

func (discardSink) Add(*layer.Entry) error { return nil }
func (discardSink) Close() error           { return nil }

// Size returns the bytes of the regular files of a layer. For a layer that was never unpacked
// the blob is read through once, and the answer is kept.
func (s *Store) Size(ctx context.Context, id layer.ID) (int64, error) {
	info, err := s.Layer(ctx, id)
	if err != nil || info.Size >= 0 {
		return info.Size, err
	}
	count := &countingSink{Sink: discardSink{}}
	if info.Dir {
		err = layer.WriteTree(s.dirTree(s.layerFS(id)), count)
	} else if p, done := s.usePlan(id); p != nil {
		defer done()
		err = p.src.WriteTo(count)
	} else {
		blobs, berr := s.presentBlobs(ctx, info)
		if berr != nil {
			return -1, berr
		}
		if len(blobs) == 0 {
			return -1, fmt.Errorf("measuring layer %s: %w", info.DiffID, ErrNotFound)
		}
		_, err = s.readLayerBlob(ctx, blobs[0].Descriptor, info.DiffID, count)
		err = s.settle(ctx, info, err)
	}
	if err != nil {
		return -1, ofLayer(info, fmt.Errorf("measuring layer %s: %w", id, err))
	}
	return count.bytes, s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET size=? WHERE id=?", count.bytes, string(id))
		return err
	})
}
