// Package imagetools makes images of images that registries have, and tells of them, as the commands imagetools of buildx
// do: of manifests and indexes, without their layers.
//
// # Structure
//
// A [Source] is what the user named (source.go). [Create] puts the sources together as one manifest or index (combine.go),
// without the platforms that are not wanted (filter.go), and [Image.Push] copies what it names and pushes it. [Inspect] reads an
// image of a registry; what only some ask for of it is read when they do (inspect.go).
//
// # Caveats
//
// The bytes of an index are those that buildx makes of the same sources: its digest is the same.
package imagetools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
)

// Request is what is to be made.
type Request struct {
	// Sources are references, digests and descriptors in JSON.
	Sources []string
	// Tags are what the result is called. Without any it cannot be pushed.
	Tags []string
	// Append adds the sources to what the first tag is.
	Append bool
	// Annotations are those of an index and of the descriptors in it.
	Annotations map[exptypes.AnnotationKey]string
	// PreferIndex makes an index of a single manifest, too.
	PreferIndex bool
	// Platforms are those that are wanted; all without any.
	Platforms []ocispec.Platform
}

// Image is what was made of sources.
type Image struct {
	// Raw is the manifest or index that Desc describes.
	Raw  []byte
	Desc ocispec.Descriptor

	parts []part
	tags  map[string][]reference.Named // by repository
}

// part is a manifest or index that an image is made of, and the reference of the source that it came with.
type part struct {
	desc ocispec.Descriptor
	from string
	raw  []byte // if it was read
}

// Create makes an image. Nothing is written anywhere.
//
// Errors are those of [registry.Client.Manifest], and what is wrong with the request.
func Create(ctx context.Context, c *registry.Client, req Request) (*Image, error) {
	img := &Image{tags: map[string][]reference.Named{}}
	for _, t := range req.Tags {
		ref, err := parseReference(t)
		if err != nil {
			return nil, err
		}
		img.tags[ref.Name()] = append(img.tags[ref.Name()], ref)
	}
	texts := req.Sources
	if req.Append && len(req.Tags) > 0 {
		texts = slices.Concat(req.Tags[:1], texts)
	}
	sources, err := parseSources(texts)
	if err != nil {
		return nil, err
	}
	if err := placeSources(sources, texts, img.Repositories()); err != nil {
		return nil, err
	}
	if err := readSources(ctx, c, sources); err != nil {
		return nil, err
	}
	if err := combine(img, sources, req); err != nil {
		return nil, err
	}
	if err := (&filter{client: c, img: img, sources: sources}).run(ctx, req.Platforms); err != nil {
		return nil, err
	}
	if len(img.Raw) > registry.MaxManifestSize {
		return nil, fmt.Errorf("the index has %d bytes, more than the %d that registries take", len(img.Raw), registry.MaxManifestSize)
	}
	return img, nil
}

// Repositories are those of the tags, without them, in their order.
func (i *Image) Repositories() []string { return slices.Sorted(maps.Keys(i.tags)) }

// referrers are the artifacts about a manifest that are copied with it: attestations and signatures.
var referrers = []string{
	attestationArtifact,
	"application/vnd.dev.cosign.artifact.sig.v1+json",
	"application/vnd.dev.sigstore.bundle.v0.3+json",
}

// Events tell how far a push is. They come from several goroutines at once.
type Events struct {
	Log  func(line string)
	Blob func(registry.CopyEvent)
}

// Push copies what the image names to one of its repositories, and then the image itself, under each of its tags there.
//
// Errors are those of [registry.Copier.Copy].
func (i *Image) Push(ctx context.Context, c *registry.Client, repo string, events Events) error {
	copier := c.NewCopier(repo)
	copier.Referrers, copier.Progress = referrers, events.Blob
	for _, p := range i.parts {
		events.Log(fmt.Sprintf("copying %s from %s to %s", p.desc.Digest, p.from, repo))
		copier.Add(p.from, p.desc, p.raw)
	}
	if err := copier.Copy(ctx); err != nil {
		return err
	}
	for _, ref := range i.tags[repo] {
		if digested, ok := ref.(reference.Digested); ok && digested.Digest() != i.Desc.Digest {
			return fmt.Errorf("target %s requested digest %s but produced %s", ref, digested.Digest(), i.Desc.Digest)
		}
		events.Log(fmt.Sprintf("pushing %s to %s", i.Desc.Digest, ref))
		target := repo + "@" + i.Desc.Digest.String()
		if tagged, ok := ref.(reference.Tagged); ok {
			target = repo + ":" + tagged.Tag()
		}
		_, err := c.Push(ctx, target, registry.Content{
			Desc: i.Desc, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(i.Raw)), nil },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// parseReference reads a reference, which gets the tag latest if it has neither tag nor digest.
func parseReference(text string) (reference.Named, error) {
	if strings.HasPrefix(text, "oci-layout://") {
		return nil, fmt.Errorf("%s: layouts are not supported here: copy it into a registry first (load it, tag it and push it)", text)
	}
	ref, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(ref), nil
}

var errNoRepository = errors.New("no repositories specified, please set a reference in tag or source")
