package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// inRegistry are the attributes of a cache in a registry.
type inRegistry struct {
	form
	ref string // normalised
	// insecure lets a registry have any certificate, or none.
	insecure bool
}

func registryTo(t *To, attrs map[string]string) (location, error) {
	r, err := parseRegistry(attrs, "exporter")
	if err != nil {
		return nil, err
	}
	r.form, err = parseForm(t, attrs)
	return r, err
}

func registryFrom(attrs map[string]string) (location, error) { return parseRegistry(attrs, "importer") }

// parseRegistry reads the attributes that both ends have; what is "exporter" or "importer".
func parseRegistry(attrs map[string]string, what string) (*inRegistry, error) {
	ref := attrs["ref"]
	if ref == "" {
		return nil, fmt.Errorf("registry cache %s requires ref", what)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("failed to configure registry cache %s: %w", what, err)
	}
	r := &inRegistry{ref: reference.TagNameOnly(named).String()}
	return r, parseBools(attrs, attrBool{"registry.insecure", "", &r.insecure})
}

func (r *inRegistry) title() string { return "exporting cache to registry" }
func (r *inRegistry) name() string  { return r.ref }
func (r *inRegistry) where() string { return fmt.Sprintf("%q %t", r.ref, r.insecure) }

func (r *inRegistry) open(s *store.Store, client *registry.Client) (place, error) {
	if r.insecure {
		client.AllowInsecure(hostOf(r.ref))
	}
	return &repository{inRegistry: r, store: s, client: client}, nil
}

// repository is a cache in a registry.
type repository struct {
	*inRegistry
	store  *store.Store
	client *registry.Client
}

func (r *repository) load(ctx context.Context, wanted platforms.MatchComparer, tell func(string)) (*contents, error) {
	c, err := loadDocuments(ctx, r, wanted, tell)
	if err == nil {
		c.heldBy(repositoryOf(r.ref))
	}
	return c, err
}

func (r *repository) commit(ctx context.Context, x *exporting, held []ocispec.Descriptor) (ocispec.Descriptor, error) {
	return r.form.commit(ctx, r, x, held)
}

func (r *repository) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	desc, err := r.client.Resolve(ctx, r.ref)
	if err != nil {
		return desc, fmt.Errorf("failed to configure registry cache importer: %w", err)
	}
	return desc, nil
}

func (r *repository) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return r.client.Fetch(ctx, r.ref, desc)
}

func (r *repository) put(ctx context.Context, desc ocispec.Descriptor, open opener) error {
	sources, err := r.store.Sources(ctx, desc.Digest)
	if err != nil {
		return err
	}
	_, err = r.client.Push(ctx, r.ref, registry.Content{Desc: desc, Open: open, Sources: sources})
	if err != nil {
		return err
	}
	return r.store.AddSources(ctx, repositoryOf(r.ref), desc.Digest)
}

func (r *repository) tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	_, err := r.client.Push(ctx, r.ref, registry.Content{Desc: desc, Open: bytesOpener(manifest)})
	return err
}

// repositoryOf is a normalised reference without tag and digest.
func repositoryOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return named.Name()
}

// hostOf is the registry of a normalised reference.
func hostOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}
