// Package export turns the result of a build into what the user asked for: an image in the local
// store, an archive, or files. Each output type has a file.
package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/store"
)

// Source is what is exported for one platform: a root filesystem and the image config that the
// frontend made for it, without rootfs and times.
type Source struct {
	Snapshot layer.Snapshot
	Config   []byte
	// Base is the config of the image that it stands on, as the frontend found it; nil when there
	// is none.
	Base     []byte
	Platform ocispec.Platform
	// Epoch, unless nil, is the latest time that the image tells of what was made in the build.
	// (The files of the snapshot are the caller's affair.)
	Epoch *time.Time
	// Clamped counts the layers, from the last one down, whose files are not later than Epoch.
	Clamped int
	// Cache, unless nil, is put into the config as an inline cache.
	Cache        json.RawMessage
	Attestations []Attestation
}

// Options are how images are put together.
type Options struct {
	Encoding layer.Encoding
	// Index makes an image index even of one image, as for attestations.
	Index bool
	// DockerTypes asks for Docker's media types instead of OCI's.
	DockerTypes bool
	// ImageManifest attaches attestations as images, as older tools expect them, not as artifacts.
	ImageManifest bool
	// Lazy leaves out the blobs of layers that nobody has fetched yet: the image is for a registry
	// that has them, or will get them when it is pushed.
	Lazy bool
	// Names are what attestations are about.
	Names       []string
	Annotations Annotations
}

// Image is an image of one platform, whose blobs are all in the store.
type Image struct {
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	Snapshot layer.Snapshot // the layers in the store
	Created  time.Time
	Size     int64 // bytes of all layers' files, uncompressed; -1 when not known
}

// Assembly is what has a name: an image, or an index of images.
type Assembly struct {
	// Target is the manifest of the only image, or the index.
	Target ocispec.Descriptor
	Images []Image // in the order of the sources
	// Attestations are the manifests of those.
	Attestations []ocispec.Descriptor
	// attached are the blobs of attestations: each manifest after what it refers to.
	attached []ocispec.Descriptor
}

// IsIndex reports whether the target is an index.
func (a *Assembly) IsIndex() bool { return a.Target.Digest != a.Images[0].Manifest.Digest }

// blobs lists all blobs, each after those that it refers to, each once.
func (a *Assembly) blobs() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	add := func(descs ...ocispec.Descriptor) {
		for _, d := range descs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
	}
	for _, img := range a.Images {
		add(img.Layers...)
		add(img.Config, img.Manifest)
	}
	add(a.attached...)
	add(a.Target)
	return all
}

// Manifests lists the manifests and the index, each once.
func (a *Assembly) Manifests() []ocispec.Descriptor {
	all := slices.Clone(a.Attestations)
	for _, img := range a.Images {
		all = append(all, img.Manifest)
	}
	if a.IsIndex() {
		all = append(all, a.Target)
	}
	return all
}

// layerForm is one layer of an image that is being put together.
type layerForm struct {
	id      layer.ID
	desc    ocispec.Descriptor
	diffID  digest.Digest
	size    int64
	created time.Time
}

// Assemble writes everything that the images of the sources consist of into the store: layers that
// have no blob yet, configs, manifests, attestations, and an index when there are several images,
// attestations, or the options ask for one. Layers are made at the same time.
func Assemble(ctx context.Context, s *store.Store, sources []Source, opt Options) (*Assembly, error) {
	a := &Assembly{}
	index := opt.Index || len(sources) > 1
	for _, src := range sources {
		index = index || len(src.Attestations) > 0
	}
	if err := opt.Annotations.check(sources, index); err != nil {
		return nil, err
	}
	if index && opt.DockerTypes && slices.ContainsFunc(sources, func(s Source) bool { return len(s.Attestations) > 0 }) {
		return nil, errors.New("cannot export attestations with \"oci-mediatypes=false\"")
	}
	for _, src := range sources {
		img, err := assembleImage(ctx, s, src, opt)
		if err != nil {
			return nil, err
		}
		a.Images = append(a.Images, img)
	}
	if !index {
		a.Target = a.Images[0].Manifest
		return a, nil
	}
	return a, a.assembleIndex(ctx, s, sources, opt)
}

// assembleIndex writes the attestations of the images and the index of all of them.
func (a *Assembly) assembleIndex(ctx context.Context, s *store.Store, sources []Source, opt Options) error {
	index := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Annotations: opt.Annotations.Index,
	}
	if opt.DockerTypes {
		index.MediaType = images.MediaTypeDockerSchema2ManifestList
	}
	for i, src := range sources {
		img := a.Images[i]
		index.Manifests = append(index.Manifests, img.Manifest)
		if len(src.Attestations) == 0 {
			continue
		}
		desc, err := a.attach(ctx, s, img, src, opt)
		if err != nil {
			return fmt.Errorf("exporting attestations: %w", err)
		}
		a.Attestations = append(a.Attestations, desc)
	}
	index.Manifests = append(index.Manifests, a.Attestations...)
	var err error
	if a.Target, err = putJSONBlob(ctx, s, index.MediaType, index); err != nil {
		return fmt.Errorf("exporting index: %w", err)
	}
	a.Target.Annotations = opt.Annotations.IndexDescriptor
	return nil
}

// assembleImage writes one image.
func assembleImage(ctx context.Context, s *store.Store, src Source, opt Options) (Image, error) {
	forms := make([]layerForm, len(src.Snapshot))
	g, gctx := errgroup.WithContext(ctx)
	for i, id := range src.Snapshot {
		g.Go(func() (err error) {
			forms[i], err = form(gctx, s, id, opt)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Image{}, fmt.Errorf("exporting layers: %w", err)
	}
	if !opt.DockerTypes { // which have no annotations
		src.tellClamped(forms)
	}
	config, img, err := finishConfig(src, forms)
	if err != nil {
		return Image{}, fmt.Errorf("exporting config: %w", err)
	}
	manifestType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if opt.DockerTypes {
		manifestType, configType = images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Config
	}
	if img.Config, err = s.PutBlob(ctx, configType, config); err != nil {
		return Image{}, err
	}
	manifest, descriptor := opt.Annotations.of(src.Platform)
	img.Manifest, err = putJSONBlob(ctx, s, manifestType, ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   manifestType,
		Config:      img.Config,
		Layers:      img.Layers,
		Annotations: manifest,
	})
	if err != nil {
		return Image{}, fmt.Errorf("exporting manifest: %w", err)
	}
	p := src.Platform
	img.Manifest.Platform, img.Manifest.Annotations = &p, descriptor
	return img, nil
}

// putJSONBlob writes a document as a blob.
func putJSONBlob(ctx context.Context, s *store.Store, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.PutBlob(ctx, mediaType, data)
}

func form(ctx context.Context, s *store.Store, id layer.ID, opt Options) (layerForm, error) {
	f := layerForm{id: id}
	var err error
	there := false
	if opt.Lazy && !opt.Encoding.Force {
		if f.desc, f.diffID, there, err = s.Elsewhere(ctx, id); err != nil {
			return f, err
		}
	}
	if !there {
		if f.desc, f.diffID, err = s.Blob(ctx, id, opt.Encoding); err != nil {
			return f, err
		}
	}
	f.desc.MediaType = ociMediaType(f.desc.MediaType)
	if opt.DockerTypes {
		if f.desc.MediaType, err = dockerMediaType(f.desc.MediaType); err != nil {
			return f, err
		}
	}
	info, err := s.Layer(ctx, id)
	f.created, f.size = info.Created, info.Size
	return f, err
}

// ociMediaType returns the OCI name of a layer's media type: images may be pulled with Docker's.
func ociMediaType(mediaType string) string {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar":
		return ocispec.MediaTypeImageLayer
	case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return ocispec.MediaTypeImageLayerGzip
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return mediaType
}

// dockerMediaType is the other way round.
func dockerMediaType(mediaType string) (string, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return images.MediaTypeDockerSchema2Layer, nil
	case ocispec.MediaTypeImageLayerGzip:
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case ocispec.MediaTypeImageLayerZstd:
		return images.MediaTypeDockerSchema2LayerZstd, nil
	}
	return "", fmt.Errorf("a layer of the type %s has no Docker media type: leave out oci-mediatypes=false, or add compression=gzip,force-compression=true", mediaType)
}

// finishConfig fills in rootfs, history and creation times. Fields of the config that it does not
// know stay as they are.
func finishConfig(src Source, forms []layerForm) ([]byte, Image, error) {
	var img ocispec.Image
	raw := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(src.Config, &img), json.Unmarshal(src.Config, &raw)); err != nil {
		return nil, Image{}, err
	}
	if raw == nil {
		return nil, Image{}, errors.New("invalid null image config for export")
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, Image{}, errors.New("the config names no os or no architecture")
	}
	history := history(img.History, forms)
	if src.Epoch != nil {
		if err := clampHistory(history, src.Base, *src.Epoch); err != nil {
			return nil, Image{}, err
		}
	}
	out := Image{Layers: []ocispec.Descriptor{}}
	rootfs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, f := range forms {
		rootfs.DiffIDs = append(rootfs.DiffIDs, f.diffID)
		out.Layers = append(out.Layers, f.desc)
		out.Snapshot = append(out.Snapshot, f.id)
		if f.size < 0 || out.Size < 0 {
			out.Size = -1
		} else {
			out.Size += f.size
		}
	}
	for _, h := range history {
		if h.Created != nil {
			out.Created = *h.Created
		}
	}
	fields := map[string]any{"rootfs": rootfs, "history": history}
	if !out.Created.IsZero() {
		fields["created"] = out.Created.UTC()
	}
	if src.Cache != nil {
		fields["moby.buildkit.cache.v0"] = src.Cache
	}
	for key, value := range fields {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, Image{}, err
		}
		raw[key] = data
	}
	data, err := json.Marshal(raw)
	return data, out, err
}

// history matches history entries with layers. The rules are those of BuildKit's image exporter:
// entries without a time get that of their layer, or of the one before; layers without an entry
// get one; entries without a layer become empty ones.
func history(entries []ocispec.History, forms []layerForm) []ocispec.History {
	out := make([]ocispec.History, 0, len(entries))
	next := 0
	take := func(h ocispec.History) {
		if h.Created == nil {
			t := forms[next].created.UTC()
			h.Created = &t
		}
		next++
		out = append(out, h)
	}
	for _, h := range entries {
		h.CreatedBy = outbound.Redact(h.CreatedBy) // of an ADD
		switch {
		case h.EmptyLayer:
			out = append(out, h)
		case next < len(forms):
			take(h)
		default:
			h.EmptyLayer = true
			out = append(out, h)
		}
	}
	for next < len(forms) {
		take(ocispec.History{Comment: "slipway"})
	}
	fillTimes(out)
	return out
}

// fillTimes gives entries without a time that of the first new layer, or of the layer before.
func fillTimes(out []ocispec.History) {
	var created *time.Time
	missing := false
	for _, h := range out {
		if h.Created == nil {
			missing = true
			continue
		}
		created = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i := range out {
		switch {
		case out[i].Created == nil:
			missing = true
			out[i].Created = created
		case missing:
			created = out[i].Created
		}
	}
}
