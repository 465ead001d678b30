package transfer

import (
	"context"
	"slices"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Saved finds the images to be saved, each once, with the names they are saved under: the one that
// was given; all tags of a repository that was given without one; none of an image that was given by its ID
// or by a digest, as in Docker: who loads it has not asked for them.
func Saved(ctx context.Context, s *store.Store, names []string, wanted []ocispec.Platform) ([]export.Saved, error) {
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	var out []export.Saved
	for _, arg := range names {
		images, named := tagsOf(all, arg), true
		if len(images) == 0 {
			img, err := view.FindImage(ctx, s, arg)
			if err != nil {
				return nil, err
			}
			images = []store.Image{img}
			full, err := store.NormalizeName(arg)
			named = err == nil && full == img.Name && !img.Pinned()
		}
		if err := s.Hold(ctx, images...); err != nil {
			return nil, err
		}
		for _, img := range images {
			if out, err = addSaved(ctx, s, out, img, named, wanted); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// tagsOf are the images of a repository, when arg is the name of one without a tag.
func tagsOf(all []store.Image, arg string) []store.Image {
	ref, err := reference.ParseNormalizedNamed(arg)
	if err != nil || !reference.IsNameOnly(ref) {
		return nil
	}
	return view.OfRepository(all, ref)
}

// addSaved adds an image, with its name if it was named, or the name to the image that is there already.
func addSaved(ctx context.Context, s *store.Store, out []export.Saved, img store.Image, named bool, wanted []ocispec.Platform) ([]export.Saved, error) {
	name := img.Name
	for _, p := range wanted {
		one, err := view.ForPlatform(ctx, s, img, p)
		if err != nil {
			return nil, err
		}
		if len(wanted) == 1 {
			img = one
		}
	}
	at := slices.IndexFunc(out, func(o export.Saved) bool { return o.Image.Target().Digest == img.Target().Digest })
	if at < 0 {
		at = len(out)
		out = append(out, export.Saved{Image: img, Platforms: wanted})
	}
	if named && img.Tagged() && !slices.Contains(out[at].Names, name) {
		out[at].Names = append(out[at].Names, name)
	}
	return out, nil
}
