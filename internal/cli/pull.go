package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/transfer"
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
		if _, err := a.pullImage(ctx, s, n, flags.platform, imagesource.ResolvePull, show); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(a.stdout, ref.String())
	return errors.Join(err, show.Close())
}

// pullImage brings an image into the store, under its name. platform "" is this machine's.
func (a *app) pullImage(ctx context.Context, s *store.Store, name, platform string, mode imagesource.ResolveMode, show *transferDisplay) (*container.Image, error) {
	w := transfer.Wanted{Name: name, Mode: mode}
	if platform != "" {
		p, err := platforms.Parse(platform)
		if err != nil {
			return nil, fmt.Errorf("--platform: %w", err)
		}
		w.Platform = p
	}
	return transfer.Pull(ctx, s, imagesource.New(s, a.registry()), w, show)
}
