package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/load"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// archiveSchemes begin the names of files in which images are, as skopeo has them.
var archiveSchemes = []string{"oci-archive:", "docker-archive:"}

// imageSources are the names that imageFor takes besides those of images.
const imageSources = "IMAGE is an image of the store, oci-layout://DIR[:TAG][@DIGEST], or an archive: oci-archive:FILE or docker-archive:FILE."

// imageFor is an image of the store, or one in a directory or an archive, or what it is for a platform, unless that is "". What is brought
// into the store for it goes with what nothing needs.
func (a *app) imageFor(ctx context.Context, name, platform string) (store.Image, *store.Store, error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return store.Image{}, nil, err
	}
	s, err := a.Store()
	if err != nil {
		return store.Image{}, nil, err
	}
	if strings.HasPrefix(name, imagesource.SchemeLayout) {
		img, err := a.imageOfLayout(ctx, s, name, p)
		return img, s, err
	}
	for _, scheme := range archiveSchemes {
		if file, ok := strings.CutPrefix(name, scheme); ok {
			img, err := imageOfArchive(ctx, s, file, p)
			return img, s, err
		}
	}
	img, err := view.UseImage(ctx, s, name)
	if err == nil && p != nil {
		img, err = view.ForPlatform(ctx, s, img, *p)
	}
	return img, s, err
}

// imageOfLayout is an image in a directory that is an OCI layout.
func (a *app) imageOfLayout(ctx context.Context, s *store.Store, name string, p *ocispec.Platform) (img store.Image, err error) {
	dir, tag, d, err := imagesource.FindLayout(name)
	if err != nil {
		return img, err
	}
	src, err := a.Images()
	if err != nil {
		return img, err
	}
	if p == nil {
		p = &ocispec.Platform{} // this machine's
	}
	found, err := src.ResolveLayout(ctx, dir, "oci-layout/image:"+tag+"@"+d.String(), *p)
	if err != nil {
		return img, err
	}
	for i := range found.Manifest.Layers {
		if err := src.PullLayout(ctx, dir, found, i, func(ocispec.Descriptor, int64, int64) {}); err != nil {
			return img, err
		}
	}
	img = store.Image{Manifest: found.Desc, ID: found.Manifest.Config.Digest, Size: -1}
	img.Layers, err = imagesource.Snapshot(ctx, s, found)
	return img, err
}

// imageOfArchive is the only image of an archive.
func imageOfArchive(ctx context.Context, s *store.Store, file string, p *ocispec.Platform) (img store.Image, err error) {
	f, err := os.Open(file)
	if err != nil {
		return img, err
	}
	defer f.Close()
	opts := load.Options{Unnamed: true}
	if p != nil {
		opts.Platforms = []ocispec.Platform{*p}
	}
	all, err := load.Load(ctx, s, f, opts)
	if err != nil {
		return img, fmt.Errorf("%s: %w", file, err)
	}
	for _, other := range all[1:] {
		if other.ID != all[0].ID {
			return img, fmt.Errorf("%s has several images: load it, and name one", file)
		}
	}
	return all[0], nil
}
