package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/transfer"
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
	imgs, err := transfer.ToPush(ctx, s, ref, flags.all)
	if err != nil {
		return err
	}
	show := newTransferDisplay(a.stdout, flags.quiet)
	defer show.Close()
	show.Printf("The push refers to repository [%s]\n", ref.Name())
	for _, img := range imgs {
		if err := a.pushImage(ctx, s, img, flags.platform, show); err != nil {
			return err
		}
	}
	if flags.quiet {
		_, err = fmt.Fprintln(a.stdout, ref.String())
	}
	return err
}

// pushImage pushes one image under its name.
func (a *app) pushImage(ctx context.Context, s *store.Store, img store.Image, platform string, show *transferDisplay) error {
	p, err := parsePlatform(platform)
	if err == nil {
		_, err = transfer.Push(ctx, s, a.registry(), img, p, show)
	}
	return err
}
