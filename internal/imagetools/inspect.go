package imagetools

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
)

const (
	// maxNesting is how deep indexes may lie in indexes.
	maxNesting = 4
	// maxDocuments is how many manifests and configs of an image are read, and maxDocumentBytes how many bytes of them.
	maxDocuments, maxDocumentBytes = 1000, 64 << 20
	// maxStatement is the size in bytes of the largest attestation that is read.
	maxStatement = 64 << 20
)

// Inspection is an image of a registry, or of a layout. It is not safe for concurrent use.
type Inspection struct {
	Ref   Location
	Desc  ocispec.Descriptor
	Raw   []byte
	Index ocispec.Index // what Raw says as an index; of a manifest only a few fields

	client *places
	loaded bool
	images map[string]*image // by platform
}

// image is what is of one platform.
type image struct {
	config     *ocispec.Image
	statements []statement
}

// statement is a descriptor of an attestation, of the type that it has.
type statement struct {
	desc      ocispec.Descriptor
	predicate string
}

// Inspect reads the manifest or index of an image.
//
// Errors are those of [registry.Client.Manifest].
func Inspect(ctx context.Context, c *registry.Client, name string) (*Inspection, error) {
	ref, err := ParseLocation(name)
	if err != nil {
		return nil, err
	}
	i := &Inspection{Ref: ref, client: newPlaces(c)}
	if i.Desc, i.Raw, err = i.client.Manifest(ctx, ref.String()); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(i.Raw, &i.Index); err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", ref, err)
	}
	return i, nil
}

// IsIndex reports whether the image is an index.
func (i *Inspection) IsIndex() bool { return images.IsIndexType(i.Desc.MediaType) }

// Configs reads the configs of the images by their platforms. It is one for a manifest.
func (i *Inspection) Configs(ctx context.Context) (map[string]*ocispec.Image, error) {
	if err := i.load(ctx); err != nil {
		return nil, err
	}
	all := map[string]*ocispec.Image{}
	for platform, img := range i.images {
		all[platform] = img.config
	}
	return all, nil
}

// Provenance is what is known of how an image was built.
type Provenance struct {
	SLSA any `json:",omitempty"`
}

// Provenance reads the provenance of the images by their platforms.
func (i *Inspection) Provenance(ctx context.Context) (map[string]Provenance, error) {
	all := map[string]Provenance{}
	err := i.predicates(ctx, "https://slsa.dev/provenance/", func(platform string, predicate any) {
		all[platform] = Provenance{SLSA: predicate}
	})
	return all, err
}

// SBOM is a list of what is in an image, and further ones, as of its build stages.
type SBOM struct {
	SPDX            any   `json:",omitempty"`
	AdditionalSPDXs []any `json:",omitempty"`
}

// SBOM reads the lists of the images by their platforms.
func (i *Inspection) SBOM(ctx context.Context) (map[string]SBOM, error) {
	all := map[string]SBOM{}
	err := i.predicates(ctx, "https://spdx.dev/Document", func(platform string, predicate any) {
		s, ok := all[platform]
		if ok {
			s.AdditionalSPDXs = append(s.AdditionalSPDXs, predicate)
		} else {
			s.SPDX = predicate
		}
		all[platform] = s
	})
	return all, err
}

// predicates reads the attestations of a type.
func (i *Inspection) predicates(ctx context.Context, prefix string, use func(platform string, predicate any)) error {
	if err := i.load(ctx); err != nil {
		return err
	}
	for platform, img := range i.images {
		for _, s := range img.statements {
			if !strings.HasPrefix(s.predicate, prefix) {
				continue
			}
			predicate, err := i.predicate(ctx, s.desc)
			if err != nil {
				return err
			}
			use(platform, predicate)
		}
	}
	return nil
}

// predicate reads an in-toto statement, which may be in an envelope (DSSE) with signatures. They are not verified.
func (i *Inspection) predicate(ctx context.Context, desc ocispec.Descriptor) (any, error) {
	raw, err := i.client.Document(ctx, i.Ref.String(), desc, maxStatement)
	if err != nil {
		return nil, err
	}
	if isEnvelope(desc.MediaType) {
		var envelope struct {
			Payload string `json:"payload"`
		}
		if err := json.Unmarshal(raw, &envelope); err != nil {
			return nil, fmt.Errorf("reading attestation %s: %w", desc.Digest, err)
		}
		if raw, err = base64.StdEncoding.DecodeString(envelope.Payload); err != nil {
			return nil, fmt.Errorf("reading attestation %s: %w", desc.Digest, err)
		}
	}
	var content struct {
		Predicate any `json:"predicate"`
	}
	if err := json.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("reading attestation %s: %w", desc.Digest, err)
	}
	return content.Predicate, nil
}

func isEnvelope(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.in-toto.") && strings.HasSuffix(mediaType, "+dsse")
}

// load reads the manifests that an index names, and the configs of those that are images.
func (i *Inspection) load(ctx context.Context) error {
	if i.loaded {
		return nil
	}
	l := &loader{Inspection: i, about: map[digest.Digest][]statement{}, seen: map[digest.Digest]bool{}}
	if err := l.read(ctx, i.Desc, i.Raw, 0); err != nil {
		return err
	}
	for _, m := range l.found {
		if err := l.count(m.manifest.Config); err != nil {
			return err
		}
	}
	configs := make([]*ocispec.Image, len(l.found))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for n, m := range l.found {
		g.Go(func() (err error) {
			configs[n], err = i.config(ctx, m.manifest.Config)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	all := map[string]*image{}
	for n, m := range l.found {
		p := m.desc.Platform
		if p == nil {
			p = &ocispec.Platform{OS: configs[n].OS, Architecture: configs[n].Architecture, Variant: configs[n].Variant}
		}
		all[platforms.Format(platforms.Normalize(*p))] = &image{config: configs[n], statements: l.about[m.desc.Digest]}
	}
	i.images, i.loaded = all, true
	return nil
}

func (i *Inspection) config(ctx context.Context, desc ocispec.Descriptor) (*ocispec.Image, error) {
	raw, err := i.client.Document(ctx, i.Ref.String(), desc, registry.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	config := new(ocispec.Image)
	if err := json.Unmarshal(raw, config); err != nil {
		return nil, fmt.Errorf("reading config %s of %s: %w", desc.Digest, i.Ref, err)
	}
	return config, nil
}

// loader reads the manifests of an image.
type loader struct {
	*Inspection
	found []loadedManifest
	about map[digest.Digest][]statement // attestations by what they are about
	seen  map[digest.Digest]bool

	documents int
	bytes     int64
}

type loadedManifest struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
}

// read takes in a manifest or index, and what that names.
func (l *loader) read(ctx context.Context, desc ocispec.Descriptor, raw []byte, depth int) error {
	if l.seen[desc.Digest] {
		return nil
	}
	l.seen[desc.Digest] = true
	if depth > maxNesting {
		return fmt.Errorf("%s: indexes are nested more than %d deep: %w", l.Ref, maxNesting, errdefs.ErrOutOfRange)
	}
	switch {
	case images.IsManifestType(desc.MediaType):
		m := loadedManifest{desc: desc}
		if err := json.Unmarshal(raw, &m.manifest); err != nil {
			return fmt.Errorf("reading manifest %s of %s: %w", desc.Digest, l.Ref, err)
		}
		l.take(m)
		return nil
	case !images.IsIndexType(desc.MediaType):
		return nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return fmt.Errorf("reading index %s of %s: %w", desc.Digest, l.Ref, err)
	}
	raws, err := l.fetch(ctx, index.Manifests)
	if err != nil {
		return err
	}
	for n, d := range index.Manifests {
		if err := l.read(ctx, d, raws[n], depth+1); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads documents, several at a time.
func (l *loader) fetch(ctx context.Context, descs []ocispec.Descriptor) ([][]byte, error) {
	if err := l.count(descs...); err != nil {
		return nil, err
	}
	raws := make([][]byte, len(descs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for n, d := range descs {
		if l.seen[d.Digest] || !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		g.Go(func() (err error) {
			raws[n], err = l.client.Document(ctx, l.Ref.String(), d, registry.MaxManifestSize)
			return err
		})
	}
	return raws, g.Wait()
}

// count bounds what is read, before it is.
func (l *loader) count(descs ...ocispec.Descriptor) error {
	for _, d := range descs {
		l.documents++
		l.bytes += min(max(0, d.Size), maxDocumentBytes+1)
	}
	if l.documents > maxDocuments || l.bytes > maxDocumentBytes {
		return fmt.Errorf("%s has more than %d manifests and configs, or %d bytes of them: %w", l.Ref, maxDocuments, maxDocumentBytes, errdefs.ErrOutOfRange)
	}
	return nil
}

// take notes an image, or the attestations about one.
func (l *loader) take(m loadedManifest) {
	for _, key := range []string{"com.docker.reference.digest", "vnd.docker.reference.digest"} {
		about, ok := m.desc.Annotations[key]
		if !ok {
			continue
		}
		for _, layer := range m.manifest.Layers {
			if layer.MediaType == "application/vnd.in-toto+json" || isEnvelope(layer.MediaType) {
				d := digest.Digest(about)
				l.about[d] = append(l.about[d], statement{layer, layer.Annotations["in-toto.io/predicate-type"]})
			}
		}
		return
	}
	l.found = append(l.found, m)
}
