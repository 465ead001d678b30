package imagetools

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// combine makes one document of the sources: a single source stays as it is, unless an index is wanted or it
// gets annotations; of more the index has everything that they have, each digest once.
func combine(img *Image, sources []*source, req Request) error {
	if len(sources) == 1 && len(req.Annotations) == 0 {
		if only := sources[0]; images.IsIndexType(only.desc.MediaType) || !req.PreferIndex {
			img.Raw, img.Desc = only.raw, only.desc
			return nil
		}
	}
	var all entries
	for _, s := range sources {
		if !images.IsIndexType(s.desc.MediaType) {
			all.add(s.desc)
			continue
		}
		var index ocispec.Index
		if err := json.Unmarshal(s.raw, &index); err != nil {
			return fmt.Errorf("reading the index of %s: %w", s.ref, err)
		}
		for _, d := range index.Manifests {
			all.add(d)
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: all.mediaType(), Manifests: all.list}
	if index.MediaType == ocispec.MediaTypeImageIndex { // Docker's lists have none
		if err := annotate(&index, req.Annotations); err != nil {
			return err
		}
	}
	return img.set(index, nil)
}

// set makes an index the image.
func (i *Image) set(index ocispec.Index, annotations map[string]string) error {
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("failed to marshal index: %w", err)
	}
	mediaType := index.MediaType
	if mediaType == "" {
		mediaType = i.Desc.MediaType
	}
	i.Raw = raw
	i.Desc = ocispec.Descriptor{MediaType: mediaType, Size: int64(len(raw)), Digest: digest.FromBytes(raw), Annotations: annotations}
	return nil
}

// entries are the descriptors of an index, each digest once. What a later source says of one is added to it.
type entries struct {
	list []ocispec.Descriptor
	at   map[digest.Digest]int
}

func (e *entries) add(d ocispec.Descriptor) {
	i, ok := e.at[d.Digest]
	if !ok {
		if e.at == nil {
			e.at = map[digest.Digest]int{}
		}
		e.at[d.Digest] = len(e.list)
		e.list = append(e.list, d)
		return
	}
	old := &e.list[i]
	if old.MediaType == "" {
		old.MediaType = d.MediaType
	}
	if d.Platform != nil {
		old.Platform = d.Platform
	}
	if len(d.Annotations) > 0 {
		all := map[string]string{}
		maps.Copy(all, old.Annotations)
		maps.Copy(all, d.Annotations)
		old.Annotations = all
	}
}

// mediaType is Docker's for lists of nothing but Docker's manifests, otherwise OCI's.
func (e *entries) mediaType() string {
	for _, d := range e.list {
		if !strings.HasPrefix(d.MediaType, "application/vnd.docker.") {
			return ocispec.MediaTypeImageIndex
		}
	}
	return images.MediaTypeDockerSchema2ManifestList
}

// annotate adds annotations to an index and to the descriptors in it. Those for one platform come over those for all.
func annotate(index *ocispec.Index, annotations map[exptypes.AnnotationKey]string) error {
	ofIndex, general, special := map[string]string{}, map[string]string{}, map[string]map[string]string{}
	for k, v := range annotations {
		switch k.Type {
		case exptypes.AnnotationIndex:
			ofIndex[k.Key] = v
		case exptypes.AnnotationManifestDescriptor:
			if k.Platform == nil {
				general[k.Key] = v
				continue
			}
			of := k.PlatformString()
			if special[of] == nil {
				special[of] = map[string]string{}
			}
			special[of][k.Key] = v
		case exptypes.AnnotationIndexDescriptor:
			return fmt.Errorf("%q annotations are invalid while creating an image", k.Type)
		default:
			return fmt.Errorf("%q annotations are not supported yet", k.Type)
		}
	}
	index.Annotations = ofIndex
	for i := range index.Manifests {
		d := &index.Manifests[i]
		all := map[string]string{}
		maps.Copy(all, d.Annotations)
		maps.Copy(all, general)
		if d.Platform != nil {
			maps.Copy(all, special[platforms.Format(*d.Platform)])
		}
		d.Annotations = all
	}
	return nil
}
