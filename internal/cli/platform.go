package cli

import (
	"context"
	"fmt"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// parsePlatform reads a value of --platform; "" is nil.
func parsePlatform(value string) (*ocispec.Platform, error) {
	if value == "" {
		return nil, nil
	}
	p, err := platforms.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("invalid platform: %w", err)
	}
	p = platforms.Normalize(p)
	return &p, nil
}

// localImage is an image of the store, for a platform unless that is "". One that is not here, or not for the
// platform, is store.ErrNotFound.
func localImage(ctx context.Context, s *store.Store, name, platform string) (store.Image, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return store.Image{}, err
	}
	img, err := s.UseImage(ctx, name)
	if err != nil || p == nil {
		return img, err
	}
	return view.ForPlatform(ctx, s, img, *p)
}
