package manifestlist

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
)

// ErrIsList says that a reference is not the manifest of one image.
type ErrIsList struct {
	Ref  reference.Named
	Desc ocispec.Descriptor
	Raw  []byte
}

func (e *ErrIsList) Error() string { return e.Ref.String() + " is a manifest list" }

// Fetch reads an image's manifest from its registry, and its platform from the config.
//
// Errors are those of [registry.Client.Manifest], and [ErrIsList].
func Fetch(ctx context.Context, c *registry.Client, ref reference.Named) (Image, error) {
	desc, raw, err := c.Manifest(ctx, ref.String())
	if err != nil {
		return Image{}, err
	}
	if images.IsIndexType(desc.MediaType) {
		return Image{}, &ErrIsList{ref, desc, raw}
	}
	img, err := newImage(ref, desc, raw)
	if err != nil {
		return Image{}, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return Image{}, fmt.Errorf("reading the manifest of %s: %w", ref, err)
	}
	config, err := c.Document(ctx, ref.String(), manifest.Config, registry.MaxConfigSize)
	if err != nil {
		return Image{}, err
	}
	img.Descriptor.Platform = &ocispec.Platform{}
	if err := json.Unmarshal(config, img.Descriptor.Platform); err != nil {
		return Image{}, fmt.Errorf("reading the config of %s: %w", ref, err)
	}
	return img, nil
}

func newImage(ref reference.Named, desc ocispec.Descriptor, raw []byte) (Image, error) {
	img := Image{Ref: ref.String(), Descriptor: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, Raw: raw}
	switch desc.MediaType {
	case images.MediaTypeDockerSchema2Manifest:
		img.SchemaV2Manifest = raw
	case ocispec.MediaTypeImageManifest:
		img.OCIManifest = raw
	default:
		return Image{}, fmt.Errorf("%s is not a manifest of an image: it is of type %q", ref, desc.MediaType)
	}
	return img, nil
}

// Entries are the images that a list of a registry names, without their manifests.
func (e *ErrIsList) Entries() ([]Image, error) {
	var index ocispec.Index
	if err := json.Unmarshal(e.Raw, &index); err != nil {
		return nil, fmt.Errorf("reading the manifest list of %s: %w", e.Ref, err)
	}
	all := make([]Image, 0, len(index.Manifests))
	for _, d := range index.Manifests {
		ref, err := reference.WithDigest(e.Ref, d.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest list of %s: digest %q: %w", e.Ref, d.Digest, err)
		}
		p := ocispec.Platform{}
		if d.Platform != nil {
			p = *d.Platform
		}
		all = append(all, Image{Ref: ref.String(), Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: &p}})
	}
	return all, nil
}

const (
	// maxListed is how many manifests of a list are read, and maxReads how many at the same time.
	maxListed, maxReads = 500, 8
)

// Load reads the manifests of entries of a list.
func Load(ctx context.Context, c *registry.Client, entries []Image) error {
	if len(entries) > maxListed {
		return fmt.Errorf("the list has %d manifests: more than %d are not read", len(entries), maxListed)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for n := range entries {
		g.Go(func() error { return entries[n].load(ctx, c) })
	}
	return g.Wait()
}

// load reads the manifest of an entry.
func (i *Image) load(ctx context.Context, c *registry.Client) error {
	ref, err := reference.ParseNamed(i.Ref)
	if err != nil {
		return err
	}
	raw, err := c.Document(ctx, i.Ref, i.Descriptor, registry.MaxManifestSize)
	if err != nil {
		return err
	}
	img, err := newImage(ref, i.Descriptor, raw)
	if err != nil {
		return err
	}
	img.Descriptor.Platform = i.Descriptor.Platform
	*i = img
	return nil
}

// list is a manifest list as docker writes it.
type list struct {
	SchemaVersion int     `json:"schemaVersion"`
	MediaType     string  `json:"mediaType,omitempty"`
	Manifests     []entry `json:"manifests"`
}

type entry struct {
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size,omitempty"`
	Digest    digest.Digest `json:"digest,omitempty"`
	Platform  platform      `json:"platform"`
}

type platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`
}

// Marshal makes the list of images that target is to be. Its bytes are docker's. Its type is that of the first image.
func Marshal(target reference.Named, all []Image) (ocispec.Descriptor, []byte, error) {
	l := list{SchemaVersion: 2, MediaType: images.MediaTypeDockerSchema2ManifestList, Manifests: []entry{}}
	if len(all) > 0 && all[0].Descriptor.MediaType == ocispec.MediaTypeImageManifest {
		l.MediaType = ocispec.MediaTypeImageIndex
	}
	for _, img := range all {
		ref, err := reference.ParseNamed(img.Ref)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		if from, to := reference.Domain(ref), reference.Domain(target); from != to {
			return ocispec.Descriptor{}, nil, fmt.Errorf("cannot use source images from a different registry than the target image: %s != %s", from, to)
		}
		e := entry{MediaType: img.Descriptor.MediaType, Size: img.Descriptor.Size, Digest: img.Descriptor.Digest}
		if p := img.Descriptor.Platform; p != nil {
			e.Platform = platform{p.Architecture, p.OS, p.OSVersion, p.OSFeatures, p.Variant}
		}
		l.Manifests = append(l.Manifests, e)
	}
	raw, err := json.MarshalIndent(l, "", "   ")
	return ocispec.Descriptor{MediaType: l.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, raw, err
}

// Push makes the list and pushes it, after the manifests and blobs of images of other repositories of the registry. pushed is
// told of each such image, when it is there.
//
// Errors are those of [registry.Copier.Copy].
func Push(ctx context.Context, c *registry.Client, target reference.Named, all []Image, pushed func(ref string, d digest.Digest)) (digest.Digest, error) {
	for _, img := range all {
		if p := img.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return "", fmt.Errorf("manifest %s must have an OS and Architecture to be pushed to a registry", img.Ref)
		}
	}
	desc, raw, err := Marshal(target, all)
	if err != nil {
		return "", err
	}
	copier := c.NewCopier(target.Name())
	var foreign []Image
	for _, img := range all {
		ref, err := reference.ParseNamed(img.Ref)
		if err != nil {
			return "", err
		}
		if ref.Name() == target.Name() {
			continue
		}
		copier.Add(ref.Name(), img.Descriptor, img.Raw)
		foreign = append(foreign, img)
	}
	if err := copier.Copy(ctx); err != nil {
		return "", err
	}
	for _, img := range foreign {
		pushed(target.Name()+"@"+img.Descriptor.Digest.String(), img.Descriptor.Digest)
	}
	_, err = c.Push(ctx, target.String(), registry.Content{
		Desc: desc, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	})
	return desc.Digest, err
}
