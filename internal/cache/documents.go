package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
)

// documents is what keeps manifests as well as blobs by their digests, and has names for manifests. A cache
// in it is a manifest, or an index, with the cache's config. Digests are the caller's to verify.
type documents interface {
	// resolve finds the manifest.
	resolve(ctx context.Context) (ocispec.Descriptor, error)
	// open reads a manifest or a blob.
	open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	// put writes a blob unless it is there, as destination has it.
	put(ctx context.Context, desc ocispec.Descriptor, open opener) error
	// tag writes the manifest, all blobs of which are there, and gives it its name.
	tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error
}

// errContent says that a blob is not what its digest says.
var errContent = errors.New("content does not have its digest")

// read returns a whole document of at most limit bytes, verified.
func read(ctx context.Context, from documents, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	return readFrom(ctx, from.open, desc, limit)
}

func readFrom(ctx context.Context, open func(context.Context, ocispec.Descriptor) (io.ReadCloser, error), desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("descriptor with digest %q: %w", desc.Digest, err)
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s is too large (%d > %d)", desc.Digest, desc.Size, limit)
	}
	r, err := open(ctx, desc)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", desc.Digest, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s is too large (> %d)", desc.Digest, limit)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("reading %s: %w: it has %s", desc.Digest, errContent, got)
	}
	return data, nil
}

// loadDocuments reads the cache that a manifest names, or that is inside of the images that it names.
func loadDocuments(ctx context.Context, from documents, wanted platforms.MatchComparer, tell func(string)) (*contents, error) {
	desc, err := from.resolve(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := read(ctx, from, desc, registry.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	tell("inferred cache manifest type: " + m.kind)
	if m.cache == nil {
		return loadInline(ctx, from, wanted, m, raw)
	}
	data, err := read(ctx, from, *m.cache, maxConfig)
	if err != nil {
		return nil, err
	}
	return decodeConfig(data, listedIn(m.layers))
}

// manifest is a manifest or an index, of a cache or of an image.
type manifest struct {
	kind   string               // media type
	cache  *ocispec.Descriptor  // the cache's config
	layers []ocispec.Descriptor // of the cache
	images []ocispec.Descriptor // of an index without a cache's config
}

func parseManifest(raw []byte) (*manifest, error) {
	var doc struct {
		MediaType string               `json:"mediaType"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("decoding cache manifest: %w", err)
	}
	m := &manifest{kind: doc.MediaType}
	if (doc.Config == nil) == (doc.Manifests == nil) {
		return nil, errors.New("unsupported or uninferrable manifest type")
	}
	if doc.Config != nil {
		if m.kind == "" {
			m.kind = ocispec.MediaTypeImageManifest
		}
		m.layers = doc.Layers
		if doc.Config.MediaType == cacheimporttypes.CacheConfigMediaTypeV0 {
			m.cache = doc.Config
		}
		return m, nil
	}
	if m.kind == "" {
		m.kind = ocispec.MediaTypeImageIndex
	}
	for _, d := range doc.Manifests {
		switch {
		case d.MediaType == cacheimporttypes.CacheConfigMediaTypeV0:
			m.cache = &d
		case isManifest(d.MediaType):
			m.images = append(m.images, d)
		default:
			m.layers = append(m.layers, d)
		}
	}
	return m, nil
}

func isManifest(mediaType string) bool {
	return images.IsManifestType(mediaType) || images.IsIndexType(mediaType)
}

// form is how a cache is written to documents.
type form struct {
	// imageManifest lists the layers in an image manifest, otherwise in an index. dockerTypes gives
	// index and layers Docker's media types.
	imageManifest, dockerTypes bool
}

// parseForm reads the attributes that decide what is written to documents.
func parseForm(t *To, attrs map[string]string) (f form, err error) {
	oci := true
	f.imageManifest = true
	if err := parseBools(attrs, attrBool{"oci-mediatypes", "", &oci}, attrBool{"image-manifest", "", &f.imageManifest}); err != nil {
		return f, err
	}
	if _, given := attrs["image-manifest"]; !given && !oci {
		f.imageManifest = false
	}
	if f.imageManifest && !oci {
		return f, errors.New("invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format")
	}
	f.dockerTypes = !oci
	t.dockerTypes = f.dockerTypes
	return f, t.parseEncoding(attrs)
}

// attrBool is an attribute that is true or false; empty is what it is without a value.
type attrBool struct {
	name, empty string
	to          *bool
}

func parseBools(attrs map[string]string, bools ...attrBool) error {
	for _, b := range bools {
		v, ok := attrs[b.name]
		if !ok {
			continue
		}
		if v == "" && b.empty != "" {
			v = b.empty
		}
		var err error
		if *b.to, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("failed to parse %s: %w", b.name, err)
		}
	}
	return nil
}

// commit writes the config, then the manifest.
func (f form) commit(ctx context.Context, to documents, x *exporting, held []ocispec.Descriptor) (ocispec.Descriptor, error) {
	data, err := x.marshal()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config := describe(cacheimporttypes.CacheConfigMediaTypeV0, data)
	err = x.telling("writing config "+config.Digest.String(), func() error { return to.put(ctx, config, bytesOpener(data)) })
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("error writing config blob: %w", err)
	}
	mediaType, data, err := f.manifest(config, held)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("failed to marshal manifest: %w", err)
	}
	desc := describe(mediaType, data)
	line := "writing cache manifest " + desc.Digest.String()
	if f.imageManifest {
		line = "writing cache image manifest " + desc.Digest.String()
	}
	if err := x.telling(line, func() error { return to.tag(ctx, desc, data) }); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("error writing manifest blob: %w", err)
	}
	return desc, nil
}

// manifest makes the manifest: an image manifest whose config is the cache's, or an index that lists
// the layers and the config.
func (f form) manifest(config ocispec.Descriptor, held []ocispec.Descriptor) (string, []byte, error) {
	version := specs.Versioned{SchemaVersion: 2}
	if f.imageManifest {
		data, err := json.Marshal(ocispec.Manifest{
			Versioned: version, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: held,
		})
		return ocispec.MediaTypeImageManifest, data, err
	}
	mediaType := ocispec.MediaTypeImageIndex
	if f.dockerTypes {
		mediaType = images.MediaTypeDockerSchema2ManifestList
	}
	data, err := json.Marshal(ocispec.Index{Versioned: version, MediaType: mediaType, Manifests: append(held, config)})
	return mediaType, data, err
}

func isLayer(mediaType string) bool { return images.IsLayerType(mediaType) }
