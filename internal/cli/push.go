package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

type pushFlags struct {
	all, quiet bool
	platform   string
}

func newPushCmd(a *app) *cobra.Command {
	var flags pushFlags
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.push(cmd.Context(), args[0], flags)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&flags.all, "all-tags", "a", false, "Push all tags of an image to the repository")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "Suppress verbose output")
	f.StringVar(&flags.platform, "platform", "", "Push only the image of this platform out of a multi-platform image")
	f.Bool("disable-content-trust", true, "Accepted for Docker's sake")
	f.Lookup("disable-content-trust").Hidden = true
	return cmd
}

func (a *app) push(ctx context.Context, name string, flags pushFlags) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("%w: %q", err, name)
	}
	switch {
	case flags.all && !reference.IsNameOnly(ref):
		return errors.New("tag can't be used with --all-tags/-a")
	case !flags.all && reference.IsNameOnly(ref):
		ref = reference.TagNameOnly(ref)
		if !flags.quiet {
			fmt.Fprintln(a.stdout, "Using default tag:", ref.(reference.Tagged).Tag())
		}
	}
	if _, ok := ref.(reference.Digested); ok {
		return errors.New("cannot push a digest reference")
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	imgs, err := toPush(ctx, s, ref, flags.all)
	if err != nil {
		return err
	}
	show := newTransferDisplay(a.stdout, flags.quiet)
	defer show.Close()
	show.Printf("The push refers to repository [%s]\n", ref.Name())
	for _, img := range imgs {
		if err := a.pushImage(ctx, s, img, flags, show); err != nil {
			return err
		}
	}
	if flags.quiet {
		_, err = fmt.Fprintln(a.stdout, ref.String())
	}
	return err
}

// toPush finds the images of a repository that are pushed: the tagged one, or all.
func toPush(ctx context.Context, s *store.Store, ref reference.Named, allTags bool) ([]store.Image, error) {
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

// pushImage pushes one image under its name.
func (a *app) pushImage(ctx context.Context, s *store.Store, img store.Image, flags pushFlags, show *transferDisplay) error {
	p, err := parsePlatform(flags.platform)
	if err != nil {
		return err
	}
	if p != nil {
		if img, err = view.ForPlatform(ctx, s, img, *p); err != nil {
			return err
		}
	}
	desc, err := export.Pushable(ctx, s, img.Target(), layer.Encoding{Compression: layer.Gzip})
	if err != nil {
		return err
	}
	err = export.Push(ctx, s, a.registry(), desc, []string{img.Name}, export.PushOptions{Progress: func(e export.PushEvent) {
		if images.IsLayerType(e.Desc.MediaType) {
			if e.State != export.PushSending {
				e.Sent, e.Desc.Size = 0, 0
			} else if e.Sent == e.Desc.Size { // the registry has yet to say that it took it
				return
			}
			show.Layer(shortID(e.Desc.Digest.String()), pushWords(e), e.Sent, e.Desc.Size)
		}
	}})
	if err != nil {
		return err
	}
	if err := s.SetSource(ctx, img, desc.Digest); err != nil {
		return err
	}
	_, tag := store.FamiliarName(img.Name)
	show.Printf("%s: digest: %s size: %d\n", tag, desc.Digest, desc.Size)
	return nil
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
