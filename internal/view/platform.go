package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// Manifest is one of those that an image's index names, or the only one of an image without an index.
type Manifest struct {
	ocispec.Descriptor               // of an image with its platform, if the index tells it
	Here               bool          // it is in the store; its layers need not be
	Reference          string        // what it is to another one, "attestation-manifest"; "" of an image
	For                digest.Digest // the other one
}

// Manifests lists the manifests of an image in the order of its index.
func Manifests(ctx context.Context, s *store.Store, img store.Image) ([]Manifest, error) {
	if img.Index == nil {
		config, err := ImageConfig(ctx, s, img.ID)
		if err != nil {
			return nil, err
		}
		d := img.Manifest
		p := platforms.Normalize(config.Platform)
		d.Platform = &p
		return []Manifest{{Descriptor: d, Here: true}}, nil
	}
	data, err := s.ReadBlob(ctx, img.Index.Digest)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("decoding the index of image %s: %w", familiarImage(img), err)
	}
	var all []Manifest
	for _, d := range index.Manifests {
		all = append(all, Manifest{Descriptor: d, Here: s.HasBlob(d.Digest),
			Reference: d.Annotations["vnd.docker.reference.type"], For: digest.Digest(d.Annotations["vnd.docker.reference.digest"])})
	}
	return all, nil
}

// ForPlatform is what an image is for one platform: of an index the manifest that fits best, and none that only runs there
// as well (linux/386 on linux/amd64). An image that is not for the platform, or whose part for it is not in the store, is
// store.ErrNotFound.
func ForPlatform(ctx context.Context, s *store.Store, img store.Image, p ocispec.Platform) (store.Image, error) {
	all, err := Manifests(ctx, s, img)
	if err != nil {
		return img, err
	}
	match := platforms.OnlyStrict(p)
	var best *Manifest
	for i, m := range all {
		if m.Reference != "" || m.Platform == nil || !m.Here || !match.Match(*m.Platform) {
			continue
		}
		if best == nil || match.Less(*m.Platform, *best.Platform) {
			best = &all[i]
		}
	}
	if best == nil {
		return img, &NotFoundError{fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)",
			familiarImage(img), platforms.FormatAll(p)), store.ErrNotFound}
	}
	if best.Digest == img.Manifest.Digest {
		img.Index, img.Manifest.Platform = nil, best.Platform // as the index has it
		return img, nil
	}
	return OpenManifest(ctx, s, img, best.Descriptor)
}

// OpenManifest is the image of one manifest of an index, under the index's name.
func OpenManifest(ctx context.Context, s *store.Store, img store.Image, desc ocispec.Descriptor) (store.Image, error) {
	data, err := s.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return img, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return img, fmt.Errorf("decoding the manifest of image %s: %w", familiarImage(img), err)
	}
	config, err := ImageConfig(ctx, s, m.Config.Digest)
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
	return Familiar(img.Name)
}

// Familiar is the short form of a reference, with its tag.
func Familiar(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(reference.TagNameOnly(ref))
}

// TagName is the full form of a name that an image is to have, of which the tag may be given apart. The errors are those of Docker.
func TagName(name, tag string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("error parsing reference: %q is not a valid repository/tag: %w", name, err)
	}
	if tag != "" {
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return "", fmt.Errorf("error parsing reference: %q is not a valid repository/tag: %w", name+":"+tag, err)
		}
	}
	if _, digested := ref.(reference.Digested); digested {
		return "", errors.New("refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(ref) == string(digest.Canonical) {
		return "", errors.New("refusing to create an ambiguous tag using digest algorithm as name")
	}
	return store.NormalizeName(ref.String())
}
