package imagesource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
)

// Layout is a directory of the OCI image layout, as an image source beside the registries. What is
// in it is no more trusted than what they send.
type Layout struct{ Dir string }

// Find returns the digest of the image that the layout calls ref, or of the only one that it has.
// The rule is that of docker buildx.
func (l Layout) Find(ref string) (digest.Digest, error) {
	data, err := layer.ReadRegular(filepath.Join(l.Dir, ocispec.ImageIndexFile), registry.MaxManifestSize)
	if err != nil {
		return "", fmt.Errorf("reading OCI layout: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("reading OCI layout: %s: %w", filepath.Join(l.Dir, ocispec.ImageIndexFile), err)
	}
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		for _, m := range index.Manifests {
			if m.Annotations[key] == ref {
				return m.Digest, m.Digest.Validate()
			}
		}
	}
	if len(index.Manifests) == 1 {
		return index.Manifests[0].Digest, index.Manifests[0].Digest.Validate()
	}
	return "", fmt.Errorf("the layout has %d images, none of them named %q", len(index.Manifests), ref)
}

// path is the file of a blob, whose digest is valid.
func (l Layout) path(d digest.Digest) string {
	return filepath.Join(l.Dir, ocispec.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

// ResolveLayout finds the image that ref, which has a digest, is for a platform in the layout, and
// copies its manifest and config into the store. No registry is asked.
func (s *Source) ResolveLayout(ctx context.Context, l Layout, ref string, platform ocispec.Platform) (*Image, error) {
	pinned, ok := pinnedDigest(ref)
	if !ok {
		return nil, fmt.Errorf("reading OCI layout %s: %s has no digest", l.Dir, ref)
	}
	if err := s.copyDocuments(ctx, l, pinned, map[digest.Digest]bool{}); err != nil {
		return nil, fmt.Errorf("reading OCI layout %s: %w", l.Dir, err)
	}
	img, err := s.Resolve(ctx, ref, platform, ResolveLocal)
	if err != nil {
		return nil, fmt.Errorf("reading OCI layout %s: %w", l.Dir, err)
	}
	return img, nil
}

// copyDocuments copies an index or a manifest, and those that it names, each once. A layout may lack what
// other platforms need.
func (s *Source) copyDocuments(ctx context.Context, l Layout, d digest.Digest, seen map[digest.Digest]bool) error {
	if seen[d] {
		return nil
	}
	seen[d] = true
	raw, err := s.copyDocument(ctx, l, d, registry.MaxManifestSize)
	if err != nil {
		return err
	}
	var doc struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return nil // Resolve says what is wrong
	}
	for _, m := range doc.Manifests {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.copyDocuments(ctx, l, m.Digest, seen); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if doc.Config != nil {
		_, err = s.copyDocument(ctx, l, doc.Config.Digest, registry.MaxConfigSize)
	}
	return err
}

func (s *Source) copyDocument(ctx context.Context, l Layout, d digest.Digest, limit int64) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	data, err := layer.ReadRegular(l.path(d), limit)
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		return nil, fmt.Errorf("the content of %s is %s", l.path(d), got)
	}
	if s.store.HasBlob(d) {
		return data, nil
	}
	return data, s.store.WriteBlob(ctx, ocispec.Descriptor{Digest: d, Size: int64(len(data))}, bytes.NewReader(data))
}

// PullLayout is PullLayer for an image of a layout.
func (s *Source) PullLayout(ctx context.Context, l Layout, img *Image, i int, progress Progress) error {
	desc := img.Manifest.Layers[i]
	if err := s.copyBlob(ctx, l, desc, progress); err != nil {
		return fmt.Errorf("copying layer %d of %d (%s) from OCI layout %s: %w", i+1, len(img.Manifest.Layers), desc.Digest, l.Dir, err)
	}
	return nil
}

// copyBlob copies a blob unless the store has it.
func (s *Source) copyBlob(ctx context.Context, l Layout, desc ocispec.Descriptor, progress Progress) error {
	if s.store.HasBlob(desc.Digest) {
		return nil
	}
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", desc.Digest, err)
	}
	f, err := layer.OpenRegular(l.path(desc.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := s.store.WriteBlob(ctx, desc, &meter{r: f, layer: desc, progress: progress}); err != nil {
		return err
	}
	progress(desc, desc.Size, desc.Size)
	return nil
}

func pinnedDigest(ref string) (digest.Digest, bool) {
	named, err := registry.Parse(ref)
	if err != nil {
		return "", false
	}
	pinned, ok := named.(interface{ Digest() digest.Digest })
	if !ok {
		return "", false
	}
	return pinned.Digest(), true
}
