package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// Blobs is a directory of somebody else, who keeps its index: a client, to whom a cache of type=local is sent.
type Blobs interface {
	// Name tells it apart from those of others.
	Name() string
	Has(ctx context.Context, d digest.Digest) (bool, error)
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	Write(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
}

// sent is a directory whose owner finds the manifest, and keeps its name, himself.
type sent struct {
	*directory
	blobs Blobs
}

// elsewhere puts in the place of a directory that of somebody else.
func (e Entry) elsewhere(l location) location {
	if d, ok := l.(*directory); ok && e.Directory != nil {
		return &sent{d, e.Directory(d.path)}
	}
	return l
}

func (d *sent) where() string { return fmt.Sprintf("sent to %s %q", d.blobs.Name(), d.digest) }

func (d *sent) open(*store.Store, *registry.Client) (place, error) { return inSent{d}, nil }

// inSent is what is kept in such a directory.
type inSent struct{ *sent }

func (d inSent) load(ctx context.Context, wanted platforms.MatchComparer, tell func(string)) (*contents, error) {
	return loadDocuments(ctx, d, wanted, tell)
}

func (d inSent) commit(ctx context.Context, x *exporting, held []ocispec.Descriptor) (ocispec.Descriptor, error) {
	return d.form.commit(ctx, d, x, held)
}

func (d inSent) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{Digest: d.digest}
	if d.digest == "" {
		return desc, errors.New("local cache importer requires explicit digest")
	}
	data, err := readAll(ctx, d, desc)
	desc.Size = int64(len(data))
	return desc, err
}

// readAll reads a manifest whose size nobody has said.
func readAll(ctx context.Context, from documents, desc ocispec.Descriptor) ([]byte, error) {
	r, err := from.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, registry.MaxManifestSize+1))
	err = errors.Join(err, r.Close())
	if err == nil && len(data) > registry.MaxManifestSize {
		err = fmt.Errorf("manifest %s has more than %d bytes", desc.Digest, registry.MaxManifestSize)
	}
	return data, err
}

func (d inSent) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return d.blobs.Open(ctx, desc.Digest)
}

func (d inSent) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	if has, err := d.blobs.Has(ctx, desc.Digest); err != nil || has {
		return err
	}
	r, err := open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(d.blobs.Write(ctx, desc, r), r.Close())
}

func (d inSent) tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	return d.blobs.Write(ctx, desc, bytes.NewReader(manifest))
}
