package cli

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/load"
)

// newExecutorPush pushes what --tar-path or --oci-layout-path left, so that somebody may look at it in between.
func newExecutorPush(a *app) *cobra.Command {
	var opts executorFlags
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] PATH",
		Short: "Push the image of a tar file or an OCI image layout",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.complete(os.LookupEnv); err != nil {
				return err
			}
			opts.noPush = false // whatever the environment says
			if err := a.useKanikosRegistries(&opts); err != nil {
				return err
			}
			return a.pushFile(cmd.Context(), args[0], &opts)
		},
	}
	opts.add(cmd.Flags())
	return cmd
}

func (a *app) pushFile(ctx context.Context, path string, o *executorFlags) error {
	s, err := a.Store()
	if err != nil {
		return err
	}
	r, err := openImageFile(path)
	if err != nil {
		return err
	}
	defer r.Close()
	images, err := load.Load(ctx, s, r, load.Options{})
	if err != nil {
		return fmt.Errorf("loading image: %w", err)
	}
	for _, img := range images {
		if img.Target().Digest != images[0].Target().Digest {
			return fmt.Errorf("loading image: %s has several images: one is wanted", path)
		}
	}
	show := newTransferDisplay(a.stderr, false)
	defer show.Close()
	img := images[0]
	for _, d := range o.destinations {
		ref, err := destination(d)
		if err != nil {
			return err
		}
		img.Name = ref.String()
		if err := s.SetImages(ctx, img); err != nil {
			return err
		}
		if err := a.pushImage(ctx, s, img, "", show); err != nil {
			return err
		}
	}
	return o.report(ctx, img.Target().Digest)
}

// openImageFile opens a tar file, or a directory as if it were one.
func openImageFile(path string) (io.ReadCloser, error) {
	fi, err := os.Stat(path)
	if err != nil || !fi.IsDir() {
		return os.Open(path)
	}
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.AddFS(os.DirFS(path))
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r, nil
}
