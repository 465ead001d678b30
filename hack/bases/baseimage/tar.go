package baseimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/pgzip"
)

// blob is a finished layer in memory. Both digests are known from the pass that wrote it.
type blob struct {
	data           []byte // gzip
	digest, diffID v1.Hash
}

// Digest, DiffID, Size, MediaType, Compressed and Uncompressed make blob a v1.Layer.
func (b *blob) Digest() (v1.Hash, error)             { return b.digest, nil }
func (b *blob) DiffID() (v1.Hash, error)             { return b.diffID, nil }
func (b *blob) Size() (int64, error)                 { return int64(len(b.data)), nil }
func (b *blob) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (b *blob) Compressed() (io.ReadCloser, error)   { return io.NopCloser(bytes.NewReader(b.data)), nil }
func (b *blob) Uncompressed() (io.ReadCloser, error) { return pgzip.NewReader(bytes.NewReader(b.data)) }

// tarWriter adds entries to a layer. Names are relative, without a trailing slash.
type tarWriter struct {
	tw   *tar.Writer
	made map[string]bool // directories that are there
}

// tarLayer runs write and returns what it wrote as a layer. Compression is parallel.
func tarLayer(write func(*tarWriter) error) (v1.Layer, error) {
	var out bytes.Buffer
	plain, packed := sha256.New(), sha256.New()
	zw := pgzip.NewWriter(io.MultiWriter(&out, packed))
	w := &tarWriter{tw: tar.NewWriter(io.MultiWriter(zw, plain)), made: map[string]bool{".": true}}
	if err := write(w); err != nil {
		return nil, err
	}
	if err := errors.Join(w.tw.Close(), zw.Close()); err != nil {
		return nil, fmt.Errorf("finishing layer: %w", err)
	}
	return &blob{data: out.Bytes(), digest: sum(packed), diffID: sum(plain)}, nil
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// parents writes the directories above name that are not there yet.
func (w *tarWriter) parents(name string) error {
	dir := path.Dir(name)
	if w.made[dir] {
		return nil
	}
	return w.dir(dir, 0o755)
}

// dir writes a directory owned by root, and its missing parents.
func (w *tarWriter) dir(name string, mode int64) error {
	return w.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: created}, nil)
}

// text writes a small file owned by root.
func (w *tarWriter) text(name, body string) error {
	return w.bytes(name, 0o644, []byte(body))
}

// bytes writes a file owned by root.
func (w *tarWriter) bytes(name string, mode int64, body []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body)), ModTime: created}
	return w.add(h, bytes.NewReader(body))
}

// hostFile writes a file of the host, owned by root and readable by all.
func (w *tarWriter) hostFile(name, from string, info fs.FileInfo) error {
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size(),
		ModTime: info.ModTime().Truncate(time.Second)}
	return w.add(h, f)
}

// hardLink writes another name of the file that was written as target.
func (w *tarWriter) hardLink(name, target string) error {
	h := &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755, ModTime: created}
	return w.add(h, nil)
}

// add writes an entry after its missing parents; body is nil for what has none.
func (w *tarWriter) add(h *tar.Header, body io.Reader) error {
	name := path.Clean(h.Name)
	if h.Typeflag == tar.TypeDir {
		if w.made[name] {
			return nil
		}
		w.made[name] = true
	}
	if err := w.parents(name); err != nil {
		return err
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("writing layer entry %s: %w", name, err)
	}
	if body == nil {
		return nil
	}
	if _, err := io.Copy(w.tw, body); err != nil {
		return fmt.Errorf("writing layer entry %s: %w", name, err)
	}
	return nil
}
