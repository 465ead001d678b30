package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// repository is a cache in a registry.
type repository struct {
	store  *store.Store // knows which repositories can share a blob; nil to read only
	client *registry.Client
	ref    string
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

func (r *repository) put(ctx context.Context, desc ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
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

func (r *repository) name(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
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
