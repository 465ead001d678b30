package export

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Saved is an image of the store as it is to be written to an archive.
type Saved struct {
	Image store.Image
	Names []string // full names; none for an image by its ID
	// Platforms are those of an index that are taken; none is all that are in the store.
	Platforms []ocispec.Platform
}

// saving is one call of Save.
type saving struct {
	s     *store.Store
	blobs []ocispec.Descriptor // in the order in which they are written, each once
	seen  map[digest.Digest]bool
}

// Save writes images of the store as the archive that `docker save` writes since version 25: an OCI image
// layout that has a manifest.json as well. Of an index the manifests that are not in the store are left
// out, as Docker does: the index names them, the archive has them not.
func Save(ctx context.Context, s *store.Store, images []Saved, w io.Writer) error {
	v := &saving{s: s, seen: map[digest.Digest]bool{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	var entries []any
	for _, img := range images {
		m, err := v.add(ctx, img)
		if err != nil {
			return fmt.Errorf("saving image %s: %w", img.Image.Name, err)
		}
		index.Manifests = append(index.Manifests, layoutIndex(img.Image.Target(), img.Names).Manifests...)
		entries = append(entries, savedEntry(m, img.Names))
	}
	tw := tar.NewWriter(w)
	p := tarPlace{tw}
	err := putJSON(p, ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	for _, desc := range v.blobs {
		if err == nil {
			err = putBlob(ctx, s, p, desc)
		}
	}
	if err == nil {
		err = putJSON(p, ocispec.ImageIndexFile, index)
	}
	if err == nil {
		err = putJSON(p, "manifest.json", entries)
	}
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

// savedEntry is an image's entry in manifest.json.
func savedEntry(m ocispec.Manifest, names []string) any {
	e := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobName(m.Config), Layers: []string{}}
	for _, n := range names {
		repo, tag := store.FamiliarName(n)
		e.RepoTags = append(e.RepoTags, repo+":"+tag)
	}
	for _, l := range m.Layers {
		e.Layers = append(e.Layers, blobName(l))
	}
	return e
}

// add collects the blobs of an image, and returns its manifest for this machine.
func (v *saving) add(ctx context.Context, img Saved) (ocispec.Manifest, error) {
	m, err := v.manifest(ctx, img.Image.Manifest)
	if err != nil {
		return m, err
	}
	for i, desc := range m.Layers {
		if !v.s.HasBlob(desc.Digest) {
			if err := v.remake(ctx, img.Image, i, desc); err != nil {
				return m, err
			}
		}
	}
	v.take(append(append([]ocispec.Descriptor{}, m.Layers...), m.Config, img.Image.Manifest)...)
	if img.Image.Index == nil {
		return m, nil
	}
	return m, v.addIndex(ctx, *img.Image.Index, img.Platforms)
}

func (v *saving) take(all ...ocispec.Descriptor) {
	for _, desc := range all {
		if !v.seen[desc.Digest] {
			v.seen[desc.Digest] = true
			v.blobs = append(v.blobs, desc)
		}
	}
}

func (v *saving) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	data, err := v.s.ReadBlob(ctx, desc.Digest)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return m, fmt.Errorf("reading manifest: %w", err)
	}
	return m, nil
}

// remake makes the blob of a layer again that was made here and is lost.
func (v *saving) remake(ctx context.Context, img store.Image, i int, want ocispec.Descriptor) error {
	if i < len(img.Layers) {
		desc, _, err := v.s.Blob(ctx, img.Layers[i], layer.Encoding{})
		if err == nil && desc.Digest == want.Digest {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return fmt.Errorf("layer %d of %d (%s) is not in the store: pull or build the image again: %w", i+1, len(img.Layers), want.Digest, store.ErrNotFound)
}

// addIndex adds an index with those of its manifests that are here whole, and wanted.
func (v *saving) addIndex(ctx context.Context, desc ocispec.Descriptor, wanted []ocispec.Platform) error {
	data, err := v.s.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	for _, child := range index.Manifests {
		if !v.s.HasBlob(child.Digest) || !wants(wanted, child.Platform) {
			continue
		}
		m, err := v.manifest(ctx, child)
		if err != nil {
			return err
		}
		parts := append(append([]ocispec.Descriptor{}, m.Layers...), m.Config)
		if !slices.ContainsFunc(parts, func(d ocispec.Descriptor) bool { return !v.s.HasBlob(d.Digest) }) {
			v.take(append(parts, child)...)
		}
	}
	v.take(desc)
	return nil
}

// wants reports whether a platform is one of those that are wanted; none wants all.
func wants(wanted []ocispec.Platform, p *ocispec.Platform) bool {
	if len(wanted) == 0 || p == nil {
		return true
	}
	return slices.ContainsFunc(wanted, func(w ocispec.Platform) bool { return platforms.OnlyStrict(w).Match(*p) })
}
