package transfer

import (
	"context"
	"fmt"
	"sync"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/container"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// Wanted is an image that is to be brought into the store.
type Wanted struct {
	Name     string           // as the user has it
	Platform ocispec.Platform // the zero one is this machine's
	Mode     imagesource.ResolveMode
	As       []string // names that it gets, normalised; none: its own
}

// Pull brings an image into the store, under its name.
func Pull(ctx context.Context, s *store.Store, src *imagesource.Source, w Wanted, show Display) (*container.Image, error) {
	full, err := store.NormalizeName(w.Name)
	if err != nil {
		return nil, err
	}
	img, err := src.Resolve(ctx, full, w.Platform, w.Mode)
	if err != nil {
		return nil, fmt.Errorf("failed to resolve reference %q: %w", full, err)
	}
	news, err := pullLayers(ctx, s, src, img, show)
	if err != nil {
		return nil, err
	}
	opened, err := container.OpenImage(ctx, s, w.Name, img.Digest)
	if err != nil {
		return nil, err
	}
	if old, err := s.Image(ctx, full); err != nil || old.Manifest.Digest != img.Digest {
		news = true
	}
	if len(w.As) == 0 {
		w.As = []string{full}
	}
	for _, name := range w.As {
		if err := nameImage(ctx, s, name, img, opened); err != nil {
			return nil, err
		}
	}
	show.Printf("Digest: %s\n", img.Root)
	if news {
		show.Printf("Status: Downloaded newer image for %s\n", view.Familiar(full))
	} else {
		show.Printf("Status: Image is up to date for %s\n", view.Familiar(full))
	}
	return opened, nil
}

// pullLayers fetches the layers of an image. news says that some of them were not here.
func pullLayers(ctx context.Context, s *store.Store, src *imagesource.Source, img *imagesource.Image, show Display) (news bool, err error) {
	show.Printf("%s: Pulling from %s\n", tagOrDigest(img.Ref), repositoryPath(img.Ref))
	var mu sync.Mutex
	here := map[string]bool{}
	for _, layer := range img.Manifest.Layers {
		id, words := view.ShortID(layer.Digest.String()), "Pulling fs layer"
		if here[id] = s.HasBlob(layer.Digest); here[id] {
			words = "Already exists"
		} else {
			news = true
		}
		show.Layer(id, words, 0, 0)
	}
	if !news {
		return false, nil
	}
	return true, src.Pull(ctx, img, func(layer ocispec.Descriptor, current, total int64) {
		mu.Lock()
		defer mu.Unlock()
		switch id := view.ShortID(layer.Digest.String()); {
		case here[id]:
		case current < total:
			show.Layer(id, "Downloading", current, total)
		default:
			show.Layer(id, "Pull complete", total, total)
		}
	})
}

// nameImage records a pulled image under its name. A reference by digest is one as well, without its tag, unless the image is found by it already.
func nameImage(ctx context.Context, s *store.Store, full string, pulled *imagesource.Image, img *container.Image) error {
	ref, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil //nolint:nilerr // it is no name
	}
	if d, ok := ref.(reference.Digested); ok {
		full = ref.Name() + "@" + d.Digest().String()
		if old, err := s.Image(ctx, full); err == nil && old.ID == img.ID {
			return nil
		}
	} else if !isTagged(ref) {
		return nil
	}
	record := store.Image{Name: full, Manifest: pulled.Desc, ID: img.ID, Layers: img.Snapshot, Size: -1}
	if pulled.Root != pulled.Digest {
		record.Source = pulled.Root
	}
	if img.Config.Created != nil {
		record.Created = *img.Config.Created
	}
	return s.SetImages(ctx, record)
}

// tagOrDigest is what follows the name in a reference.
func tagOrDigest(full string) string {
	ref, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	if d, ok := ref.(reference.Digested); ok {
		return ref.Name() + "@" + d.Digest().String()
	}
	if t, ok := ref.(reference.Tagged); ok {
		return t.Tag()
	}
	return full
}

// repositoryPath is the name in a reference without its registry.
func repositoryPath(full string) string {
	ref, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return reference.Path(ref)
}
