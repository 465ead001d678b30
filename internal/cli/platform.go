package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// parsePlatform reads a value of --platform; "" is nil.
func parsePlatform(value string) (*ocispec.Platform, error) {
	if value == "" {
		return nil, nil
	}
	p, err := platforms.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("invalid platform: %w", err)
	}
	p = platforms.Normalize(p)
	return &p, nil
}

// localImage is an image of the store, for a platform unless that is "". One that is not here, or not for the
// platform, is store.ErrNotFound.
func localImage(ctx context.Context, s *store.Store, name, platform string) (store.Image, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return store.Image{}, err
	}
	img, err := s.UseImage(ctx, name)
	if err != nil || p == nil {
		return img, err
	}
	return forPlatform(ctx, s, img, *p)
}

// forPlatform is what an image is for one platform: of an index the manifest that fits best, and none that only
// runs there as well (linux/386 on linux/amd64). An image
// that is not for the platform, or whose part for it is not in the store, is store.ErrNotFound.
func forPlatform(ctx context.Context, s *store.Store, img store.Image, p ocispec.Platform) (store.Image, error) {
	have, err := imagePlatforms(ctx, s, img)
	if err != nil {
		return img, err
	}
	match := platforms.OnlyStrict(p)
	var best *ocispec.Descriptor
	for i, d := range have {
		if d.Platform != nil && match.Match(*d.Platform) && (best == nil || match.Less(*d.Platform, *best.Platform)) {
			best = &have[i]
		}
	}
	if best == nil {
		return img, &notFoundError{fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)",
			familiarImage(img), platforms.FormatAll(p)), store.ErrNotFound}
	}
	if best.Digest == img.Manifest.Digest {
		img.Index = nil
		return img, nil
	}
	return openManifest(ctx, s, img, *best)
}

// imagePlatforms lists the manifests of an image that are in the store, with the platform of each: those of its
// index that stand for a platform, or its only one.
func imagePlatforms(ctx context.Context, s *store.Store, img store.Image) ([]ocispec.Descriptor, error) {
	if img.Index == nil {
		config, err := imageConfig(ctx, s, img)
		if err != nil {
			return nil, err
		}
		d := img.Manifest
		p := platforms.Normalize(config.Platform)
		d.Platform = &p
		return []ocispec.Descriptor{d}, nil
	}
	data, err := s.ReadBlob(ctx, img.Index.Digest)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("decoding the index of image %s: %w", familiarImage(img), err)
	}
	return slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations["vnd.docker.reference.type"] != "" || d.Platform == nil || !s.HasBlob(d.Digest)
	}), nil
}

// openManifest is the image of one manifest of an index, under the index's name.
func openManifest(ctx context.Context, s *store.Store, img store.Image, desc ocispec.Descriptor) (store.Image, error) {
	data, err := s.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return img, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return img, fmt.Errorf("decoding the manifest of image %s: %w", familiarImage(img), err)
	}
	config, err := readConfig(ctx, s, m.Config.Digest)
	if err != nil {
		return img, err
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return img, fmt.Errorf("image %s has %d layers, and %d diff_ids", familiarImage(img), len(m.Layers), len(config.RootFS.DiffIDs))
	}
	snap, err := imagesource.Snapshot(ctx, s, &imagesource.Image{Manifest: m, DiffIDs: config.RootFS.DiffIDs})
	if err != nil {
		return img, err
	}
	img.Index, img.Manifest, img.ID, img.Layers, img.Size = nil, desc, m.Config.Digest, snap, -1
	if config.Created != nil {
		img.Created = *config.Created
	}
	return img, nil
}

// familiarImage is an image's name as people write it, or its ID.
func familiarImage(img store.Image) string {
	if !img.Tagged() {
		return img.ID.String()
	}
	return familiar(img.Name)
}
