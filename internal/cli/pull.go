package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

type pullFlags struct {
	all, quiet bool
	platform   string
}

func newPullCmd(a *app) *cobra.Command {
	var flags pullFlags
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pull(cmd.Context(), args[0], flags)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&flags.all, "all-tags", "a", false, "Download all tagged images in the repository")
	f.StringVar(&flags.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Platform of the image, such as linux/amd64")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "Suppress verbose output")
	f.Bool("disable-content-trust", true, "Accepted for Docker's sake")
	f.Lookup("disable-content-trust").Hidden = true
	return cmd
}

func (a *app) pull(ctx context.Context, name string, flags pullFlags) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("%w: %q", err, name)
	}
	show := newTransferDisplay(a.stdout, flags.quiet)
	names := []string{ref.String()}
	switch {
	case flags.all && !reference.IsNameOnly(ref):
		return errors.New("tag can't be used with --all-tags/-a")
	case flags.all:
		tags, err := a.registry().Tags(ctx, ref.Name())
		if err != nil {
			return err
		}
		names = names[:0]
		for _, tag := range tags {
			names = append(names, ref.Name()+":"+tag)
		}
	case reference.IsNameOnly(ref):
		ref = reference.TagNameOnly(ref)
		names[0] = ref.String()
		show.Printf("Using default tag: %s\n", ref.(reference.Tagged).Tag())
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := a.pullImage(ctx, s, wanted{n, flags.platform, imagesource.ResolvePull}, show); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(a.stdout, ref.String())
	return errors.Join(err, show.Close())
}

// wanted is an image that is to be brought into the store.
type wanted struct {
	name, platform string // platform "" is this machine's
	mode           imagesource.ResolveMode
}

// pullImage brings an image into the store, under its name.
func (a *app) pullImage(ctx context.Context, s *store.Store, w wanted, show *transferDisplay) (*container.Image, error) {
	full, err := store.NormalizeName(w.name)
	if err != nil {
		return nil, err
	}
	var p ocispec.Platform
	if w.platform != "" {
		if p, err = platforms.Parse(w.platform); err != nil {
			return nil, fmt.Errorf("--platform: %w", err)
		}
	}
	src, err := a.Images()
	if err != nil {
		return nil, err
	}
	img, err := src.Resolve(ctx, full, p, w.mode)
	if err != nil {
		return nil, fmt.Errorf("failed to resolve reference %q: %w", full, err)
	}
	news, err := pullLayers(ctx, s, src, img, show)
	if err != nil {
		return nil, err
	}
	opened, err := container.OpenImage(ctx, s, w.name, img.Digest)
	if err != nil {
		return nil, err
	}
	if old, err := s.Image(ctx, full); err != nil || old.Manifest.Digest != img.Digest {
		news = true
	}
	if err := a.nameImage(ctx, s, full, img, opened); err != nil {
		return nil, err
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
func pullLayers(ctx context.Context, s *store.Store, src *imagesource.Source, img *imagesource.Image, show *transferDisplay) (news bool, err error) {
	show.Printf("%s: Pulling from %s\n", tagOrDigest(img.Ref), repositoryPath(img.Ref))
	for _, layer := range img.Manifest.Layers {
		words := "Pulling fs layer"
		if s.HasBlob(layer.Digest) {
			words = "Already exists"
		} else {
			news = true
		}
		show.Layer(shortID(layer.Digest.String()), words, 0, 0)
	}
	if !news {
		return false, nil
	}
	return true, src.Pull(ctx, img, func(layer ocispec.Descriptor, current, total int64) {
		id := shortID(layer.Digest.String())
		switch {
		case show.Said(id) == "Already exists":
		case current < total:
			show.Layer(id, "Downloading", current, total)
		default:
			show.Layer(id, "Pull complete", total, total)
		}
	})
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
