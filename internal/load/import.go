package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// ImportOptions are what an imported image has besides its files.
type ImportOptions struct {
	Name     string // normalised, or ""
	Config   dockerspec.DockerOCIImageConfig
	Comment  string
	Platform *ocispec.Platform // nil is this machine's
	Created  time.Time
}

// Import makes an image of one layer of a tar archive, which may be compressed, and names it. An archive that
// is damaged or means harm is [ErrInvalid].
func Import(ctx context.Context, s *store.Store, r io.Reader, opts ImportOptions) (store.Image, error) {
	img, err := importImage(ctx, s, r, opts)
	if err != nil {
		return img, fmt.Errorf("importing: %w", err)
	}
	return img, s.SetImages(ctx, img)
}

func importImage(ctx context.Context, s *store.Store, r io.Reader, opts ImportOptions) (store.Image, error) {
	var img store.Image
	desc, size, err := importLayer(ctx, s, r)
	if err != nil {
		return img, err
	}
	id, err := s.BlobLayer(ctx, desc.Digest, desc)
	if err != nil {
		return img, err
	}
	if err := s.Verified(ctx, id, size); err != nil {
		return img, err
	}
	p := platforms.DefaultSpec()
	if opts.Platform != nil {
		p = *opts.Platform
	}
	config := dockerspec.DockerOCIImage{
		Image: ocispec.Image{
			Created: &opts.Created, Platform: ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
			RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{desc.Digest}},
			History: []ocispec.History{{Created: &opts.Created, Comment: opts.Comment}},
		},
		Config: opts.Config,
	}
	img = store.Image{Name: opts.Name, Created: opts.Created, Layers: layer.Snapshot{id}, Size: size}
	cdesc, err := putJSON(ctx, s, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return img, err
	}
	img.ID = cdesc.Digest
	if img.Name == "" {
		img.Name = img.ID.String()
	}
	img.Manifest, err = putJSON(ctx, s, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cdesc, Layers: []ocispec.Descriptor{desc},
	})
	img.Manifest.Platform = &config.Platform
	return img, err
}

// importLayer stores the uncompressed archive as a layer's blob, and returns how many bytes its files have.
func importLayer(ctx context.Context, s *store.Store, r io.Reader) (ocispec.Descriptor, int64, error) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}
	plain, err := layer.Decompress(layer.ContextReader(ctx, r))
	if err != nil {
		return desc, 0, invalid("reading archive: %w", err)
	}
	defer plain.Close()
	w, err := s.NewBlob(digest.Canonical)
	if err != nil {
		return desc, 0, err
	}
	defer w.Abort()
	disk := &failing{w: w}
	size, err := readTar(io.TeeReader(plain, disk))
	switch {
	case ctx.Err() != nil:
		return desc, 0, context.Cause(ctx)
	case disk.err != nil:
		return desc, 0, disk.err
	case err != nil:
		return desc, 0, invalid("reading archive: %w", err)
	case w.Size() == 0:
		return desc, 0, invalid("the archive is empty")
	}
	if desc.Digest, err = w.Commit(ctx); err != nil {
		return desc, 0, err
	}
	desc.Size = w.Size()
	return desc, size, nil
}

// failing remembers the error of a write, which is not the archive's fault.
type failing struct {
	w   io.Writer
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.err = errors.Join(f.err, err)
	return n, err
}

func putJSON(ctx context.Context, s *store.Store, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.PutBlob(ctx, mediaType, data)
}
