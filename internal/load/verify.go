package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// blobFile finds the file of a blob that is to be kept, and checks its digest and size.
func (l *loading) blobFile(ctx context.Context, desc ocispec.Descriptor) (*file, error) {
	f, err := l.blob(ctx, desc)
	if err == nil {
		l.blobs[desc.Digest] = blob{path: f.path, desc: desc}
	}
	return f, err
}

// blob finds the file of a blob, and checks its digest and size.
func (a *archive) blob(ctx context.Context, desc ocispec.Descriptor) (*file, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, invalid("digest %q: %w", desc.Digest, err)
	}
	name := "blobs/" + string(desc.Digest.Algorithm()) + "/" + desc.Digest.Encoded()
	f, err := a.file(name)
	if err != nil {
		return nil, err
	}
	got := f.digest
	if desc.Digest.Algorithm() != digest.SHA256 {
		if got, err = digestOf(ctx, f, desc.Digest.Algorithm()); err != nil {
			return nil, err
		}
	}
	if got != desc.Digest {
		return nil, invalid("the content of %s is %s", name, got)
	}
	if f.size != desc.Size {
		return nil, invalid("%s has %d bytes, want %d", name, f.size, desc.Size)
	}
	return f, nil
}

// has reports whether the archive has a file for a blob.
func (l *loading) has(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	_, err := l.file("blobs/" + string(d.Algorithm()) + "/" + d.Encoded())
	return err == nil
}

// digestOf is a digest of a file by another algorithm, which is computed once.
func digestOf(ctx context.Context, f *file, a digest.Algorithm) (digest.Digest, error) {
	if d, ok := f.others[a]; ok {
		return d, nil
	}
	r, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, err := a.FromReader(layer.ContextReader(ctx, r))
	if err != nil {
		return "", err
	}
	if f.others == nil {
		f.others = map[digest.Algorithm]digest.Digest{}
	}
	f.others[a] = d
	return d, nil
}

// parseConfig reads an image's config.
func parseConfig(what string, data []byte) (ocispec.Image, ocispec.Platform, error) {
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return config, ocispec.Platform{}, invalid("decoding %s: %w", what, err)
	}
	if config.OS == "" || config.Architecture == "" {
		return config, ocispec.Platform{}, invalid("%s is no config of an image: it names no os or no architecture", what)
	}
	if n := len(config.RootFS.DiffIDs); n > maxLayers {
		return config, ocispec.Platform{}, invalid("%s has %d layers, more than %d", what, n, maxLayers)
	}
	for _, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return config, ocispec.Platform{}, invalid("%s has the diff_id %q: %w", what, d, err)
		}
	}
	return config, platforms.Normalize(config.Platform), nil
}

// verifyLayer reads a layer through: it must be a sound tar archive whose uncompressed bytes are diffID.
// It returns the layer's compression.
func (l *loading) verifyLayer(ctx context.Context, f *file, name string, diffID digest.Digest) (c layer.Compression, err error) {
	r, err := os.Open(f.path)
	if err != nil {
		return c, err
	}
	defer r.Close()
	br := bufio.NewReaderSize(layer.ContextReader(ctx, r), 1<<20)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return c, err
	}
	c = layer.DetectCompression(head)
	if c, done := l.layers[content{f.digest, diffID}]; done {
		return c, nil
	}
	var size int64
	got := f.digest
	if c == layer.Uncompressed && diffID.Algorithm() == digest.SHA256 {
		size, err = readTar(br)
	} else {
		size, got, err = readLayer(br, diffID.Algorithm())
	}
	switch {
	case ctx.Err() != nil:
		return c, context.Cause(ctx)
	case err != nil:
		return c, invalid("reading layer %s: %w", name, err)
	case got != diffID:
		return c, invalid("the uncompressed content of layer %s is %s, the image's config wants %s", name, got, diffID)
	}
	l.verified[diffID], l.layers[content{f.digest, diffID}] = size, c
	return c, nil
}

// readLayer reads a layer of any compression to its end, and returns how many bytes its regular files have,
// and the digest of the uncompressed bytes.
func readLayer(r io.Reader, alg digest.Algorithm) (int64, digest.Digest, error) {
	plain, err := layer.Decompress(r)
	if err != nil {
		return 0, "", err
	}
	defer plain.Close()
	hash := alg.Hash()
	size, err := readTar(io.TeeReader(plain, hash))
	if err != nil {
		return 0, "", err
	}
	return size, digest.NewDigest(alg, hash), nil
}

// readTar reads a layer's tar archive, and what follows its end, and returns how many bytes the regular
// files have.
func readTar(r io.Reader) (int64, error) {
	count := &counter{}
	if _, err := layer.ReadTar(r, layer.TarOptions{}, count); err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, fmt.Errorf("reading what follows the tar archive: %w", err)
	}
	return count.bytes, nil
}

// counter adds up the sizes of regular files.
type counter struct{ bytes int64 }

func (c *counter) Add(e *layer.Entry) error {
	if e.IsRegular() && !e.Hardlink {
		c.bytes += e.Size
	}
	return nil
}

func (c *counter) Close() error { return nil }
