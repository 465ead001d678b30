package export

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/util/attestation"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/slipway-build/slipway/internal/store"
)

// Attestation is a statement about a result: an in-toto predicate.
type Attestation struct {
	// File is what it is called where files are exported, "provenance.json".
	File          string
	PredicateType string
	Predicate     json.RawMessage
	// Complete, unless nil, makes the predicate of an image's attestation, whose layers are known then.
	Complete func(layers []ocispec.Descriptor) (json.RawMessage, error)
	// Subjects are what it is about besides the image itself, which Self asks for.
	Subjects []Subject
	Self     bool
	// InlineOnly keeps it out of exports that are no images.
	InlineOnly bool
	// CoreSBOM says that it is the SBOM of the image itself.
	CoreSBOM bool
}

// Statement is an in-toto statement in JSON
// (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
type Statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Subject       []Subject       `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
}

// Subject is what a statement is about, with its digests by algorithm.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// statementType is the media type of a statement.
const statementType = "application/vnd.in-toto+json"

// attestationArtifact is the type of a manifest that holds attestations (BuildKit's image exporter).
const attestationArtifact = "application/vnd.docker.attestation.manifest.v1+json"

// unknown is the platform of what no machine runs.
var unknown = ocispec.Platform{OS: "unknown", Architecture: "unknown"}

// Statement makes an in-toto statement about the given subjects and those of the attestation.
func (a *Attestation) Statement(self []Subject) Statement {
	subjects := []Subject{}
	if a.Self {
		subjects = append(subjects, self...)
	}
	return Statement{
		Type:          "https://in-toto.io/Statement/v1",
		PredicateType: a.PredicateType,
		Subject:       append(subjects, a.Subjects...),
		Predicate:     a.Predicate,
	}
}

// attach writes the attestations about an image and the manifest that holds them. The layout is
// BuildKit's (docs/attestations/attestation-storage.md there).
func (a *Assembly) attach(ctx context.Context, s *store.Store, img Image, src Source, opt Options) (ocispec.Descriptor, error) {
	about := img.Manifest
	self, err := imageSubjects(about, opt.Names)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	config := ocispec.Image{Platform: unknown, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, att := range src.Attestations {
		if att.Complete != nil {
			if att.Predicate, err = att.Complete(img.Layers); err != nil {
				return ocispec.Descriptor{}, err
			}
		}
		if att.CoreSBOM {
			if att.Predicate, err = supplement(ctx, s, img, att.Predicate); err != nil {
				return ocispec.Descriptor{}, fmt.Errorf("finding the files of the SBOM: %w", err)
			}
		}
		desc, err := putJSONBlob(ctx, s, statementType, att.Statement(self))
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		desc.Annotations = map[string]string{"in-toto.io/predicate-type": att.PredicateType}
		m.Layers = append(m.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, desc.Digest)
	}
	if opt.ImageManifest {
		m.Config, err = putJSONBlob(ctx, s, ocispec.MediaTypeImageConfig, config)
	} else {
		m.Config, err = s.PutBlob(ctx, ocispec.DescriptorEmptyJSON.MediaType, ocispec.DescriptorEmptyJSON.Data)
		m.Config.Data = ocispec.DescriptorEmptyJSON.Data
		m.ArtifactType = attestationArtifact
		m.Subject = &ocispec.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := putJSONBlob(ctx, s, m.MediaType, m)
	if err != nil {
		return desc, err
	}
	a.attached = append(append(a.attached, m.Layers...), m.Config, desc)
	desc.Platform = &unknown
	desc.Annotations = map[string]string{
		attestation.DockerAnnotationReferenceType:   attestation.DockerAnnotationReferenceTypeDefault,
		attestation.DockerAnnotationReferenceDigest: about.Digest.String(),
	}
	return desc, nil
}

// imageSubjects names an image for attestations, once for each of its names. An image without a
// name gives none, as BuildKit has it: the manifest refers to the image by digest all the same.
func imageSubjects(desc ocispec.Descriptor, names []string) ([]Subject, error) {
	var subjects []Subject
	for _, name := range names {
		p, err := purl.RefToPURL(packageurl.TypeDocker, name, desc.Platform)
		if err != nil {
			return nil, fmt.Errorf("naming %s in an attestation: %w", name, err)
		}
		subjects = append(subjects, Subject{Name: p, Digest: digestSet(desc.Digest)})
	}
	return subjects, nil
}

// digestSet is a digest as in-toto writes it.
func digestSet(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}
