package imagetools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
)

// maxReads is the number of documents that are read at the same time.
const maxReads = 8

// source is a manifest or index that an image is made of.
type source struct {
	ref  *Location // nil until it has a place
	said ocispec.Descriptor

	desc ocispec.Descriptor // once it was read
	raw  []byte
}

// parseSources reads what the user named: digests, references, and descriptors in JSON.
func parseSources(texts []string) ([]*source, error) {
	all := make([]*source, 0, len(texts))
	for _, text := range texts {
		s, err := parseSource(text)
		if err != nil {
			return nil, fmt.Errorf("failed to parse source %q, valid sources are digests, references and descriptors: %w", text, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func parseSource(text string) (*source, error) {
	text = strings.TrimSpace(text)
	d, err := digest.Parse(text)
	if err == nil {
		return &source{said: ocispec.Descriptor{Digest: d}}, nil
	}
	if strings.HasPrefix(text, "sha256") {
		return nil, err
	}
	l, err := ParseLocation(text)
	if err == nil {
		return &source{ref: &l}, nil
	}
	if !strings.HasPrefix(text, "{") {
		return nil, err
	}
	var said struct {
		SchemaVersion int `json:"schemaVersion"`
		ocispec.Descriptor
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return nil, err
	}
	if said.SchemaVersion != 0 {
		return nil, fmt.Errorf("expected an OCI content descriptor, got a manifest or index (schemaVersion %d)", said.SchemaVersion)
	}
	if said.Digest == "" {
		return nil, errors.New("invalid descriptor: digest is required")
	}
	if err := said.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("invalid descriptor digest: %w", err)
	}
	return &source{said: said.Descriptor}, nil
}

// placeSources gives sources that are no references the repository or directory of the others, or of the tags, when there is only one.
func placeSources(sources []*source, texts []string, targets []Location) error {
	repos := map[string]Location{}
	for _, l := range targets {
		repos[l.Name()] = l
	}
	for _, s := range sources {
		if s.ref != nil {
			repos[s.ref.Name()] = *s.ref
		}
	}
	if len(repos) == 0 {
		return errNoRepository
	}
	for i, s := range sources {
		if s.ref != nil {
			continue
		}
		if len(repos) > 1 {
			return fmt.Errorf("multiple repositories specified, cannot infer repository for %q", texts[i])
		}
		for _, only := range repos {
			l, err := only.repository().WithDigest(s.said.Digest)
			if err != nil {
				return err
			}
			s.ref = &l
		}
	}
	return nil
}

// readSources reads the sources' documents, and of manifests the configs of which the platform is not known.
func readSources(ctx context.Context, c *places, sources []*source) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for _, s := range sources {
		g.Go(func() error { return s.read(ctx, c) })
	}
	return g.Wait()
}

func (s *source) read(ctx context.Context, c *places) error {
	desc, raw, err := c.Manifest(ctx, s.ref.String())
	if err != nil {
		return err
	}
	if s.desc, err = merge(desc, s.said); err != nil {
		return err
	}
	s.raw = raw
	if !images.IsManifestType(s.desc.MediaType) {
		return nil
	}
	p := ocispec.Platform{}
	if s.desc.Platform != nil {
		p = *s.desc.Platform
	}
	if p.OS == "" || p.Architecture == "" {
		if err := readPlatform(ctx, c, s.ref.String(), raw, &p); err != nil {
			return err
		}
	}
	s.desc.Platform = &p
	return nil
}

// merge adds what the user said of a source to what it is.
func merge(desc, said ocispec.Descriptor) (ocispec.Descriptor, error) {
	if said.Size != 0 && said.Size != desc.Size {
		return desc, fmt.Errorf("invalid size mismatch for %s, %d != %d", desc.Digest, said.Size, desc.Size)
	}
	if said.MediaType != "" {
		if images.IsIndexType(said.MediaType) != images.IsIndexType(desc.MediaType) {
			return desc, fmt.Errorf("invalid media type mismatch for %s, %q != %q", desc.Digest, said.MediaType, desc.MediaType)
		}
		desc.MediaType = said.MediaType
	}
	if len(said.Annotations) > 0 {
		desc.Annotations = said.Annotations // in place of others, so that they can be taken away
	}
	if said.Platform != nil {
		desc.Platform = said.Platform
	}
	return desc, nil
}

// readPlatform fills in what a platform lacks, from the config of a manifest.
func readPlatform(ctx context.Context, c *places, ref string, manifest []byte, p *ocispec.Platform) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("reading the manifest of %s: %w", ref, err)
	}
	raw, err := c.Document(ctx, ref, m.Config, registry.MaxConfigSize)
	if err != nil {
		return err
	}
	var config ocispec.Platform
	if err := json.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("reading the config of %s: %w", ref, err)
	}
	config = platforms.Normalize(config)
	if p.Architecture == "" {
		p.Architecture = config.Architecture
		if p.Variant == "" {
			p.Variant = config.Variant
		}
	}
	if p.OS == "" {
		p.OS = config.OS
	}
	return nil
}
