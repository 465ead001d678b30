package store

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// unpack makes the directory form of a layer from one of its blobs, and verifies the diffID.
func (s *Store) unpack(ctx context.Context, info LayerInfo) error {
	blobs, err := s.layerBlobs(ctx, info.DiffID)
	if err != nil {
		return err
	}
	if len(blobs) == 0 {
		return fmt.Errorf("unpacking layer %s: no blob of it is in the store: %w", info.DiffID, ErrNotFound)
	}
	l, err := s.current()
	if err != nil {
		return err
	}
	d, err := s.draft(l, info.ID)
	if err != nil {
		return err
	}
	defer d.Abort()
	w, err := layer.NewDirWriter(d.FS)
	if err != nil {
		return fmt.Errorf("unpacking layer %s: %w", info.DiffID, err)
	}
	count := &countingSink{Sink: w}
	err = s.readLayerBlob(ctx, blobs[0], info.DiffID, count)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("unpacking layer %s: %w", info.DiffID, err)
	}
	if err := d.place(); err != nil && !errors.Is(err, errExists) {
		return fmt.Errorf("unpacking layer %s: %w", info.DiffID, err)
	}
	return s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET dir=1, size=?, boot=? WHERE id=?", count.bytes, s.boot, string(info.ID))
		return err
	})
}

// readLayerBlob hands the entries of a blob to sink. Both the blob's digest and the diffID of
// the uncompressed stream are verified before it returns nil.
func (s *Store) readLayerBlob(ctx context.Context, blob ocispec.Descriptor, diffID digest.Digest, sink layer.Sink) error {
	r, err := s.OpenBlob(ctx, blob.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, err := layer.Decompress(bufio.NewReaderSize(&ctxReader{ctx: ctx, r: r}, 1<<20))
	if err != nil {
		return err
	}
	defer plain.Close()
	hash := digest.Canonical.Hash()
	tee := io.TeeReader(plain, hash)
	if err := layer.ReadTar(tee, layer.TarOptions{}, sink); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // padding after the end marker counts
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.Canonical, hash); got != diffID {
		return fmt.Errorf("uncompressed content is %s, want diffID %s", got, diffID)
	}
	return nil
}

// ctxReader fails when its context ends, so that long copies can be cancelled.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
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
func (s *Store) Blob(ctx context.Context, id layer.ID, compression layer.Compression) (ocispec.Descriptor, digest.Digest, error) {
	type answer struct {
		desc ocispec.Descriptor
		diff digest.Digest
	}
	v, err, _ := s.work.Do("blob:"+string(id)+":"+string(compression), func() (any, error) {
		info, err := s.Layer(ctx, id)
		if err != nil {
			return nil, err
		}
		blobs, err := s.layerBlobs(ctx, info.DiffID)
		if err != nil {
			return nil, err
		}
		want := layerMediaType(compression)
		pulled := len(blobs) > 0
		for _, b := range blobs {
			if b.MediaType == want {
				return answer{b, info.DiffID}, nil
			}
			pulled = pulled && b.MediaType != ocispec.MediaTypeImageLayer
		}
		if pulled {
			return answer{blobs[0], info.DiffID}, nil
		}
		if info.DiffID == "" || len(blobs) == 0 {
			desc, err := s.pack(ctx, id)
			if err != nil || want == desc.MediaType {
				return answer{desc, desc.Digest}, err
			}
			info.DiffID, blobs = desc.Digest, []ocispec.Descriptor{desc}
		}
		desc, err := s.compress(ctx, blobs[0], info.DiffID, compression)
		return answer{desc, info.DiffID}, err
	})
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	a := v.(answer)
	return a.desc, a.diff, nil
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

// compress makes a compressed blob of a plain one.
func (s *Store) compress(ctx context.Context, plain ocispec.Descriptor, diffID digest.Digest, c layer.Compression) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: layerMediaType(c)}
	r, err := s.OpenBlob(ctx, plain.Digest)
	if err != nil {
		return desc, err
	}
	defer r.Close()
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return desc, err
	}
	defer w.Abort()
	cw, err := layer.Compress(w, c)
	if err != nil {
		return desc, fmt.Errorf("compressing layer: %w", err)
	}
	_, err = io.Copy(cw, &ctxReader{ctx: ctx, r: r})
	if err := errors.Join(err, cw.Close()); err != nil {
		return desc, fmt.Errorf("compressing layer %s: %w", diffID, err)
	}
	if desc.Digest, err = w.Commit(ctx); err != nil {
		return desc, err
	}
	desc.Size = w.Size()
	return desc, s.update(ctx, func(tx *sql.Tx) error { return putLayerBlob(tx, diffID, desc) })
}

// pack makes the plain tar of a layer's directory form.
func (s *Store) pack(ctx context.Context, id layer.ID) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	dir, err := s.Dir(ctx, id)
	if err != nil {
		return desc, err
	}
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return desc, err
	}
	defer w.Abort()
	buf := bufio.NewWriterSize(&ctxWriter{ctx: ctx, w: w}, 1<<20)
	tw := layer.NewTarWriter(buf)
	count := &countingSink{Sink: tw}
	err = layer.WalkLayer(dir, count)
	if err := errors.Join(err, tw.Close(), buf.Flush()); err != nil {
		return desc, fmt.Errorf("packing layer %s: %w", id, err)
	}
	d, err := w.Commit(ctx)
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: w.Size()}
	return desc, s.update(ctx, func(tx *sql.Tx) error {
		if err := putLayerBlob(tx, d, desc); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE layers SET diff_id=?, size=? WHERE id=?", d.String(), count.bytes, string(id))
		return err
	})
}

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
		err = layer.WalkLayer(s.layerFS(id), count)
	} else {
		blobs, berr := s.layerBlobs(ctx, info.DiffID)
		if berr != nil {
			return -1, berr
		}
		if len(blobs) == 0 {
			return -1, fmt.Errorf("measuring layer %s: %w", info.DiffID, ErrNotFound)
		}
		err = s.readLayerBlob(ctx, blobs[0], info.DiffID, count)
	}
	if err != nil {
		return -1, fmt.Errorf("measuring layer %s: %w", id, err)
	}
	return count.bytes, s.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE layers SET size=? WHERE id=?", count.bytes, string(id))
		return err
	})
}
