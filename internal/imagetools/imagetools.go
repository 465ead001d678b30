// Package imagetools makes images of images that registries have, and tells of them, as the commands imagetools of buildx
// do: of manifests and indexes, without their layers.
//
// # Structure
//
// A [Location] is where an image is, in a registry or in a directory that is an OCI layout (location.go): both are read, and written to, by
// the same functions (layout.go). What the user named is a source (source.go). [Create] puts the sources together as one manifest or index (combine.go),
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
	tags  map[string][]Location // by repository
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
	img := &Image{tags: map[string][]Location{}}
	var targets []Location
	for _, t := range req.Tags {
		l, err := ParseLocation(t)
		if err != nil {
			return nil, err
		}
		if same := img.tags[l.Name()]; len(same) > 0 && same[0].isLayout() != l.isLayout() {
			return nil, fmt.Errorf("%s and %s have the same name: give the directory as a whole path", same[0], l)
		}
		img.tags[l.Name()], targets = append(img.tags[l.Name()], l), append(targets, l)
	}
	texts := req.Sources
	if req.Append && len(req.Tags) > 0 {
		texts = slices.Concat(req.Tags[:1], texts)
	}
	sources, err := parseSources(texts)
	if err != nil {
		return nil, err
	}
	if err := placeSources(sources, texts, targets); err != nil {
		return nil, err
	}
	at := newPlaces(c)
	if err := readSources(ctx, at, sources); err != nil {
		return nil, err
	}
	if err := combine(img, sources, req); err != nil {
		return nil, err
	}
	if err := (&filter{places: at, img: img, sources: sources}).run(ctx, req.Platforms); err != nil {
		return nil, err
	}
	if len(img.Raw) > registry.MaxManifestSize {
		return nil, fmt.Errorf("the index has %d bytes, more than the %d that registries take", len(img.Raw), registry.MaxManifestSize)
	}
	return img, nil
}

// Repositories are those of the tags, without them, and directories, in their order.
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

// Push copies what the image names to one of its repositories or directories, and then the image itself, under each of its tags there.
//
// Errors are those of [registry.Copier.Copy].
func (i *Image) Push(ctx context.Context, c *registry.Client, repo string, events Events) error {
	at, tags, to := newPlaces(c), i.tags[repo], repo
	if tags[0].isLayout() {
		to = layoutPrefix + repo + ":latest" // to be read as a location, whatever is in its path
	}
	copier := c.NewCopier(to)
	copier.From, copier.Into, copier.Referrers, copier.Progress = at, at, referrers, events.Blob
	for _, p := range i.parts {
		events.Log(fmt.Sprintf("copying %s from %s to %s", p.desc.Digest, p.from, repo))
		copier.Add(p.from, p.desc, p.raw)
	}
	if err := copier.Copy(ctx); err != nil {
		return err
	}
	for _, l := range tags {
		if d := l.Digest(); d != "" && d != i.Desc.Digest {
			return fmt.Errorf("target %s requested digest %s but produced %s", l, d, i.Desc.Digest)
		}
		events.Log(fmt.Sprintf("pushing %s to %s", i.Desc.Digest, l))
		target := to + "@" + i.Desc.Digest.String()
		if tag := l.Tag(); tag != "" && !l.isLayout() {
			target = repo + ":" + tag
		}
		_, err := at.Push(ctx, target, registry.Content{
			Desc: i.Desc, Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(i.Raw)), nil },
		})
		if err == nil && l.isLayout() {
			err = i.enter(l, copier.About)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errNoRepository = errors.New("no repositories specified, please set a reference in tag or source")
