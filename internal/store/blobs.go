package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// HasBlob reports whether the blob is recorded and its file has the recorded size. If so it stays, see hold.go.
func (s *Store) HasBlob(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	if _, err := s.hold(blobLine(d)); err != nil {
		return false // and whoever writes it instead is told why that cannot be
	}
	var size int64
	if err := s.db.QueryRowContext(context.Background(), "SELECT size FROM blobs WHERE digest=?", d.String()).Scan(&size); err != nil {
		return false
	}
	return isFile(s.blobPath(d), size)
}

// isFile reports whether there is a regular file of a size.
func isFile(path string, size int64) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// OpenBlob opens a blob. Its digest is verified while it is read: the read that reaches the end
// fails when the content is not what the digest says. A missing blob is ErrNotFound.
func (s *Store) OpenBlob(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", d, err)
	}
	f, err := OpenRegular(s.blobPath(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening blob: %w", err), f.Close())
	}
	return verified(layer.SkipHoles(f, fi.Size()), f, d, func(got digest.Digest) error {
		return errors.Join(fmt.Errorf("reading blob: content is %s, want %s: %w", got, d, ErrDamaged), s.dropBlob(d))
	}), nil
}

// dropBlob forgets a damaged blob.
func (s *Store) dropBlob(d digest.Digest) error {
	err := s.update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM blobs WHERE digest=?", d.String())
		return err
	})
	return errors.Join(err, os.Remove(s.blobPath(d)))
}

// verifiedReader fails at the end of content that is not what its digest says.
type verifiedReader struct {
	io.Reader
	io.Closer
	hash hash.Hash
	want digest.Digest
	bad  func(got digest.Digest) error
}

// verified reads r, and closes c, as content that must have the digest want; bad makes the error
// when it has another one.
func verified(r io.Reader, c io.Closer, want digest.Digest, bad func(got digest.Digest) error) io.ReadCloser {
	return &verifiedReader{Reader: r, Closer: c, hash: want.Algorithm().Hash(), want: want, bad: bad}
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF {
		if got := digest.NewDigest(v.want.Algorithm(), v.hash); got != v.want {
			return n, v.bad(got)
		}
	}
	return n, err
}

// WriteTo copies with a larger buffer than io.Copy has.
func (v *verifiedReader) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{v}, make([]byte, 256<<10))
}

// ReadBlob returns the whole of a small blob, verified.
func (s *Store) ReadBlob(ctx context.Context, d digest.Digest) ([]byte, error) {
	r, err := s.OpenBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// WriteBlob stores r as the blob that desc describes. The blob appears only when size and digest
// are right; otherwise nothing is left.
func (s *Store) WriteBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("writing blob %q: %w", desc.Digest, err)
	}
	w, err := s.NewBlob(desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.ReadFrom(s.tapped(desc.Digest, io.LimitReader(r, desc.Size+1))); err != nil {
		return fmt.Errorf("writing blob %s: %w", desc.Digest, err)
	}
	if w.Size() != desc.Size {
		return fmt.Errorf("writing blob %s: content has %s bytes, want %d", desc.Digest, atLeast(w.Size(), desc.Size), desc.Size)
	}
	if got := w.Digest(); got != desc.Digest {
		return fmt.Errorf("writing blob: content is %s, want %s", got, desc.Digest)
	}
	_, err = w.Commit(ctx)
	return err
}

func atLeast(got, want int64) string {
	if got > want {
		return fmt.Sprintf("more than %d", want)
	}
	return fmt.Sprint(got)
}

// BlobWriter takes the bytes of a new blob. Commit or Abort ends it; Abort after Commit does
// nothing.
type BlobWriter struct {
	s    *Store
	f    *os.File
	out  *layer.SparseWriter // to f
	alg  digest.Algorithm
	hash *asyncHash
	size int64
	done bool

	asked int64 // of size, when the store's limit was looked at last
}

// NewBlob starts a blob whose digest is not known yet.
func (s *Store) NewBlob(alg digest.Algorithm) (*BlobWriter, error) {
	l, err := s.current()
	if err != nil {
		return nil, err
	}
	var f *os.File
	err = s.again(context.Background(), func() (err error) {
		f, err = os.OpenFile(filepath.Join(l.dir, l.name()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing blob: %w", err)
	}
	out := layer.NewSparseWriter(s.Patient(f))
	return &BlobWriter{s: s, f: f, out: out, alg: alg, hash: newAsyncHash(alg, out)}, nil
}

// Write adds bytes to the blob. An error may be that of an earlier call.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.hash.Write(p)
	return n, errors.Join(err, w.added(int64(n)))
}

// ReadFrom adds what r has. It is read into the memory that it is digested from, on another core.
func (w *BlobWriter) ReadFrom(r io.Reader) (added int64, err error) {
	for err == nil {
		var n int
		n, err = w.hash.read(r)
		added += int64(n)
		if lerr := w.added(int64(n)); lerr != nil {
			return added, lerr
		}
	}
	if err == io.EOF {
		err = nil
	}
	return added, err
}

// added counts bytes, and asks now and then whether the store may hold them.
func (w *BlobWriter) added(n int64) error {
	w.size += n
	w.s.grown(n)
	if w.size-w.asked < askEvery {
		return nil
	}
	w.asked = w.size
	return w.s.withinLimit(context.Background())
}

// Size returns the number of bytes written so far.
func (w *BlobWriter) Size() int64 { return w.size }

// Digest returns the digest of the blob, to which nothing may be added any more.
func (w *BlobWriter) Digest() digest.Digest { return w.hash.Digest() }

// Commit puts the blob into its place and records it.
func (w *BlobWriter) Commit(ctx context.Context) (digest.Digest, error) {
	d := w.Digest()
	err := w.hash.err
	if err == nil {
		err = w.out.Flush()
	}
	if err := errors.Join(err, w.f.Close()); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", d, err)
	}
	if err := os.MkdirAll(filepath.Dir(w.s.blobPath(d)), 0o700); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", d, err)
	}
	if err := w.s.placeBlob(ctx, w.f.Name(), d, w.size); err != nil {
		return "", fmt.Errorf("writing blob %s: %w", d, err)
	}
	w.done = true
	return d, nil
}

// placeBlob renames a file to where its blob is looked for, and records it. A file that is recorded stays: it may
// be on the disk, and said to be, when the new one is not.
func (s *Store) placeBlob(ctx context.Context, path string, d digest.Digest, size int64) error {
	if err := s.withinLimit(ctx); err != nil {
		return err
	}
	if _, err := s.hold(blobLine(d)); err != nil {
		return err
	}
	s.wrote.Store(true)
	return s.update(ctx, func(tx *sql.Tx) error {
		var recorded int64
		err := tx.QueryRow("SELECT size FROM blobs WHERE digest=?", d.String()).Scan(&recorded)
		if err == nil && recorded == size && isFile(s.blobPath(d), size) {
			return os.Remove(path)
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := s.rename(path, s.blobPath(d)); err != nil {
			return err
		}
		_, err = tx.Exec("INSERT INTO blobs(digest,size,boot) VALUES(?,?,?) ON CONFLICT(digest) DO UPDATE SET size=excluded.size, boot=excluded.boot",
			d.String(), size, s.boot)
		return err
	})
}

// Abort drops a blob that was not committed.
func (w *BlobWriter) Abort() {
	w.hash.Digest() // ends its goroutine
	if !w.done {
		w.done = true
		w.f.Close()
		os.Remove(w.f.Name())
	}
}

// PutBlob stores small content and returns its descriptor.
func (s *Store) PutBlob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if s.HasBlob(desc.Digest) {
		return desc, nil
	}
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return desc, err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return desc, fmt.Errorf("writing blob %s: %w", desc.Digest, err)
	}
	_, err = w.Commit(ctx)
	return desc, err
}
