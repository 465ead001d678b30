package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
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
		return fmt.Errorf("invalid reference format: %q: %w", name, err)
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
	missing := &notFoundError{"An image does not exist locally with the tag: " + reference.FamiliarName(ref), store.ErrNotFound}
	if !allTags {
		img, err := s.Image(ctx, ref.String())
		if errors.Is(err, store.ErrNotFound) || err == nil && img.Name != ref.String() {
			return nil, missing
		}
		return []store.Image{img}, err
	}
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(img store.Image) bool {
		named, err := reference.ParseNormalizedNamed(img.Name)
		return !img.Tagged() || err != nil || named.Name() != ref.Name()
	})
	if len(all) == 0 {
		return nil, missing
	}
	slices.Reverse(all) // the oldest first
	return all, nil
}

// pushImage pushes one image under its name.
func (a *app) pushImage(ctx context.Context, s *store.Store, img store.Image, flags pushFlags, show *transferDisplay) error {
	desc, err := ofPlatform(ctx, s, img, flags.platform)
	if err != nil {
		return err
	}
	if desc, err = export.Pushable(ctx, s, desc, layer.Encoding{Compression: layer.Gzip}); err != nil {
		return err
	}
	err = export.Push(ctx, s, a.registry(), desc, []string{img.Name}, export.PushOptions{Progress: func(e export.PushEvent) {
		if images.IsLayerType(e.Desc.MediaType) {
			show.Layer(shortID(e.Desc.Digest.String()), pushWords(e), e.Sent, e.Desc.Size)
		}
	}})
	if err != nil {
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

// ofPlatform is what an image is pushed as: everything, or its image of one platform.
func ofPlatform(ctx context.Context, s *store.Store, img store.Image, platform string) (ocispec.Descriptor, error) {
	if platform == "" {
		return img.Target(), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return img.Manifest, fmt.Errorf("--platform: %w", err)
	}
	all := []ocispec.Descriptor{img.Manifest}
	if img.Index != nil {
		raw, err := s.ReadBlob(ctx, img.Index.Digest)
		if err != nil {
			return img.Manifest, err
		}
		var index ocispec.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return img.Manifest, fmt.Errorf("reading index %s: %w", img.Index.Digest, err)
		}
		all = index.Manifests
	}
	var have []string
	for _, desc := range all {
		switch {
		case desc.Platform == nil || desc.Platform.OS == "unknown":
		case platforms.OnlyStrict(p).Match(*desc.Platform):
			return desc, nil
		default:
			have = append(have, platforms.FormatAll(*desc.Platform))
		}
	}
	return img.Manifest, fmt.Errorf("image %s has nothing for platform %s, only for %s: leave out --platform to push what it has", img.Name, platforms.FormatAll(p), strings.Join(have, ", "))
}
