package transfer

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// ToPush finds the images of a repository that are pushed, and holds them: the tagged one, or all.
func ToPush(ctx context.Context, s *store.Store, ref reference.Named, allTags bool) ([]store.Image, error) {
	missing := &view.NotFoundError{Message: "An image does not exist locally with the tag: " + reference.FamiliarName(ref), Err: store.ErrNotFound}
	if !allTags {
		img, err := s.UseImage(ctx, ref.String())
		if errors.Is(err, store.ErrNotFound) || err == nil && img.Name != ref.String() {
			return nil, missing
		}
		return []store.Image{img}, err
	}
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	if all = view.OfRepository(all, ref); len(all) == 0 {
		return nil, missing
	}
	slices.Reverse(all) // the oldest first
	return all, s.Hold(ctx, all...)
}

// Push pushes one image under its name, or what it is for a platform, and returns what the registry has then.
func Push(ctx context.Context, s *store.Store, reg *registry.Client, img store.Image, p *ocispec.Platform, show Display) (desc ocispec.Descriptor, err error) {
	if p != nil {
		if img, err = view.ForPlatform(ctx, s, img, *p); err != nil {
			return desc, err
		}
	}
	desc, err = export.Pushable(ctx, s, img.Target(), layer.Encoding{Compression: layer.Gzip})
	if err != nil {
		return desc, err
	}
	err = export.Push(ctx, s, reg, desc, []string{img.Name}, export.PushOptions{Progress: func(e export.PushEvent) {
		if images.IsLayerType(e.Desc.MediaType) {
			if e.State != export.PushSending {
				e.Sent, e.Desc.Size = 0, 0
			} else if e.Sent == e.Desc.Size { // the registry has yet to say that it took it
				return
			}
			show.Layer(view.ShortID(e.Desc.Digest.String()), pushWords(e), e.Sent, e.Desc.Size)
		}
	}})
	if err != nil {
		return desc, err
	}
	if err := s.SetSource(ctx, img, desc.Digest); err != nil {
		return desc, err
	}
	_, tag := store.FamiliarName(img.Name)
	show.Printf("%s: digest: %s size: %d\n", tag, desc.Digest, desc.Size)
	return desc, nil
}

// pushWords are Docker's for what becomes of a layer.
func pushWords(e export.PushEvent) string {
	switch e.State {
	case export.PushWaiting:
		return "Preparing"
	case export.PushSending:
		return "Pushing"
	case export.PushExisted:
		return "Layer already exists"
	case export.PushMounted:
		return "Mounted from " + e.From
	}
	return "Pushed"
}
