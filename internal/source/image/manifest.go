package imagesource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
)

const (
	// unknownSize is the size of a descriptor of which only the digest is known.
	unknownSize = -1
	// maxDepth is how deep indexes may lie in indexes; more than two is unheard of.
	maxDepth = 4
	// maxUnlabelled is how many entries of an index that name no platform are looked into.
	maxUnlabelled = 8
	// maxDocuments is how many manifests and indexes are read to find one image.
	maxDocuments = 32
	// maxLayers is how many layers an image may have; other engines stop below 200.
	maxLayers = 1000
)

// errNotHere marks a blob that the store lacks, or cannot read.
var errNotHere = errors.New("blob is not in the store")

// errNoPlatform marks an index without an image for the platform.
var errNoPlatform = fmt.Errorf("no image for the platform: %w", errdefs.ErrNotFound)

// load reads the image at desc, an image manifest or an index of them, with its config.
// Blobs that are not in the store are fetched into it if online, else they are errNotHere.
func (r *resolution) load(ctx context.Context, desc ocispec.Descriptor, online bool) (*Image, error) {
	l := &loader{resolution: r, online: online}
	img, err := l.image(ctx, desc, 0)
	if err == nil {
		img.Root = desc.Digest
	}
	return img, err
}

type loader struct {
	*resolution
	online    bool
	documents int // that were read
}

// image loads the manifest at desc, or the one of an index that fits the platform.
func (l *loader) image(ctx context.Context, desc ocispec.Descriptor, depth int) (*Image, error) {
	if depth > maxDepth {
		return nil, fail(errdefs.ErrOutOfRange, "image %q: indexes are nested more than %d deep", l.named, maxDepth)
	}
	if l.documents++; l.documents > maxDocuments {
		return nil, fail(errdefs.ErrOutOfRange, "image %q: more than %d manifests would have to be read to find the one for platform %s: name it by its digest", l.named, maxDocuments, l.platformName())
	}
	fetch := desc
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		// Some registries give every manifest as application/json; its text tells the type.
		// But it is fetched from where manifests are.
		if isSchema1(desc.MediaType) {
			return nil, l.schema1()
		}
		fetch.MediaType = ocispec.MediaTypeImageManifest
	}
	raw, err := l.blob(ctx, fetch, registry.MaxManifestSize, "manifest")
	if err != nil {
		return nil, err
	}
	desc.Size = int64(len(raw))
	if desc.MediaType, err = l.mediaType(desc, raw); err != nil {
		return nil, err
	}
	if images.IsIndexType(desc.MediaType) {
		return l.fromIndex(ctx, desc, raw, depth)
	}
	return l.fromManifest(ctx, desc, raw)
}

// mediaType finds out what a document is.
func (l *loader) mediaType(desc ocispec.Descriptor, raw []byte) (string, error) {
	found, err := registry.DocumentType(desc.MediaType, raw)
	switch {
	case errdefs.IsNotImplemented(err):
		return "", l.schema1()
	case err != nil:
		return "", l.bad("manifest", desc, "%v", err)
	case !images.IsManifestType(found) && !images.IsIndexType(found):
		return "", fail(errdefs.ErrNotImplemented, "image %q is not a container image: its manifest has type %q", l.named, found)
	}
	return found, nil
}

// fromIndex loads the image of an index that fits the platform best.
func (l *loader) fromIndex(ctx context.Context, desc ocispec.Descriptor, raw []byte, depth int) (*Image, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, l.bad("index", desc, "cannot be decoded: %v", err)
	}
	fits := platforms.Only(l.platform)
	var labelled, unlabelled []ocispec.Descriptor
	var have []string
	for _, m := range index.Manifests {
		if err := m.Digest.Validate(); err != nil || m.Size < 0 {
			return nil, l.bad("index", desc, "has an entry with digest %q and size %d", m.Digest, m.Size)
		}
		switch {
		case m.Annotations["vnd.docker.reference.type"] != "": // BuildKit's attestations
		case m.Platform == nil:
			unlabelled = append(unlabelled, m)
		case m.Platform.OS == "unknown":
		default:
			have = append(have, platforms.FormatAll(platforms.Normalize(*m.Platform)))
			if fits.Match(*m.Platform) {
				labelled = append(labelled, m)
			}
		}
	}
	if len(labelled) > 0 {
		slices.SortStableFunc(labelled, func(a, b ocispec.Descriptor) int {
			switch {
			case fits.Less(*a.Platform, *b.Platform):
				return -1
			case fits.Less(*b.Platform, *a.Platform):
				return 1
			}
			return 0
		})
		return l.image(ctx, labelled[0], depth+1)
	}
	for _, m := range unlabelled[:min(len(unlabelled), maxUnlabelled)] {
		img, err := l.image(ctx, m, depth+1)
		if errors.Is(err, errNoPlatform) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if fits.Match(img.Platform) {
			return img, nil
		}
		have = append(have, platforms.FormatAll(img.Platform))
	}
	return nil, fail(errNoPlatform, "%s: no match for platform in manifest: not found\n  wanted %s, and the image is for %s\n  choose one of them with --platform, or another image",
		l.named, l.platformName(), listOf(have))
}

func listOf(have []string) string {
	if len(have) == 0 {
		return "none at all"
	}
	slices.Sort(have)
	return strings.Join(strings.Fields(strings.Join(slices.Compact(have), ", ")), " ") // in one line, whatever an image says
}

// fromManifest reads and checks an image manifest and its config.
func (l *loader) fromManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) (*Image, error) {
	img := &Image{Ref: l.named.String(), Digest: desc.Digest, Desc: ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, Platform: desc.Platform,
	}}
	if err := json.Unmarshal(raw, &img.Manifest); err != nil {
		return nil, l.bad("manifest", desc, "cannot be decoded: %v", err)
	}
	if err := l.checkManifest(desc, &img.Manifest); err != nil {
		return nil, err
	}
	var err error
	if img.Config, err = l.blob(ctx, img.Manifest.Config, registry.MaxConfigSize, "config"); err != nil {
		return nil, err
	}
	if err := l.checkConfig(img); err != nil {
		return nil, err
	}
	if !l.online {
		return img, nil
	}
	blobs := []digest.Digest{img.Manifest.Config.Digest}
	for _, layer := range img.Manifest.Layers {
		blobs = append(blobs, layer.Digest)
	}
	if err := l.store.AddSources(ctx, l.named.Name(), blobs...); err != nil {
		return nil, fmt.Errorf("remembering where image %q came from: %w", l.named, err)
	}
	return img, nil
}

// checkManifest makes sure that each part can be fetched and is of a type that can be unpacked.
func (l *loader) checkManifest(desc ocispec.Descriptor, m *ocispec.Manifest) error {
	if !images.IsConfigType(m.Config.MediaType) {
		return fail(errdefs.ErrNotImplemented, "image %q is not a container image: its config has type %q", l.named, m.Config.MediaType)
	}
	if err := m.Config.Digest.Validate(); err != nil || m.Config.Size < 0 {
		return l.bad("manifest", desc, "has a config with digest %q and size %d", m.Config.Digest, m.Config.Size)
	}
	if len(m.Layers) > maxLayers {
		return fail(errdefs.ErrOutOfRange, "image %q cannot be used: it has %d layers, more than the limit of %d", l.named, len(m.Layers), maxLayers)
	}
	for i, layer := range m.Layers {
		if err := layer.Digest.Validate(); err != nil || layer.Size < 0 {
			return l.bad("manifest", desc, "has layer %d with digest %q and size %d", i+1, layer.Digest, layer.Size)
		}
		if !isLayer(layer.MediaType) {
			return fail(errdefs.ErrNotImplemented, "image %q cannot be used: its layer %d has type %q, not a tar of files", l.named, i+1, layer.MediaType)
		}
	}
	return nil
}

// isLayer reports whether a layer of this type is a tar that can be unpacked.
func isLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		images.MediaTypeDockerSchema2Layer, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerZstd,
		// Those that may not be redistributed: they are in the registry, or where their URLs say.
		images.MediaTypeDockerSchema2LayerForeign, images.MediaTypeDockerSchema2LayerForeignGzip,
		"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return true
	}
	return false
}

// checkConfig makes sure that the config describes the layers, and fills in what it tells.
func (l *loader) checkConfig(img *Image) error {
	desc := img.Manifest.Config
	var config ocispec.Image
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return l.bad("config", desc, "cannot be decoded: %v", err)
	}
	if config.RootFS.Type != "layers" && (config.RootFS.Type != "" || len(img.Manifest.Layers) > 0) {
		return l.bad("config", desc, "has rootfs type %q, want \"layers\"", config.RootFS.Type)
	}
	if got, want := len(config.RootFS.DiffIDs), len(img.Manifest.Layers); got != want {
		return l.bad("config", desc, "has %d diff_ids for %d layers", got, want)
	}
	for i, id := range config.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return l.bad("config", desc, "has an invalid diff_id %q for layer %d", id, i+1)
		}
	}
	img.DiffIDs = config.RootFS.DiffIDs
	img.Platform = l.platform
	if p := img.Desc.Platform; p != nil {
		img.Platform = *p
	}
	if config.OS != "" && config.Architecture != "" {
		img.Platform = config.Platform
	}
	img.Platform = platforms.Normalize(img.Platform)
	return nil
}

// blob returns a small blob: from the store, or from the registry and then into the store.
func (l *loader) blob(ctx context.Context, desc ocispec.Descriptor, limit int64, what string) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, l.bad(what, desc, "has digest %q: %v", desc.Digest, err)
	}
	if desc.Size > limit {
		return nil, fail(errdefs.ErrOutOfRange, "image %q: %s %s has %d bytes, more than the limit of %d", l.named, what, desc.Digest, desc.Size, limit)
	}
	if l.store.HasBlob(desc.Digest) {
		raw, err := l.stored(ctx, desc, limit)
		if err == nil || ctx.Err() != nil {
			return raw, err
		}
		if !l.online || desc.Size == unknownSize {
			return nil, fmt.Errorf("%s %s cannot be read: %w: %w", what, desc.Digest, errNotHere, err)
		}
	} else if !l.online || desc.Size == unknownSize {
		return nil, fmt.Errorf("%s %s: %w", what, desc.Digest, errNotHere)
	}
	rc, err := l.reg.Fetch(ctx, l.named.String(), desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc) // bounded by desc.Size
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(raw); got != desc.Digest {
		return nil, l.bad(what, desc, "has other content: its digest is %s", got)
	}
	if err := l.store.WriteBlob(ctx, desc, bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("storing the %s of image %q: %w", what, l.named, err)
	}
	return raw, nil
}

// stored reads a blob of the store.
func (l *loader) stored(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	rc, err := l.store.OpenBlob(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit || desc.Size != unknownSize && int64(len(raw)) != desc.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, want %d", desc.Digest, len(raw), desc.Size)
	}
	if got := desc.Digest.Algorithm().FromBytes(raw); got != desc.Digest {
		return nil, fmt.Errorf("blob %s has digest %s", desc.Digest, got)
	}
	return raw, nil
}

// bad is content that contradicts itself or its descriptor.
func (l *loader) bad(what string, desc ocispec.Descriptor, format string, args ...any) error {
	return fail(errdefs.ErrDataLoss, "image %q cannot be used: its %s %s %s", l.named, what, desc.Digest, fmt.Sprintf(format, args...))
}

func (l *loader) schema1() error {
	return fail(errdefs.ErrNotImplemented, "image %q has a manifest of Docker's old schema 1, which nothing reads any more: push it again with a current tool", l.named)
}

func isSchema1(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+")
}
