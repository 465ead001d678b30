package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newLoadCmd(a *app) *cobra.Command {
	var input string
	var quiet bool
	var platforms []string
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.openInput(input)
			if err != nil {
				return err
			}
			defer r.Close()
			return a.loadImages(cmd.Context(), r, platforms, quiet)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	f.StringSliceVar(&platforms, "platform", nil, `Load only the given platform(s), such as "linux/amd64,linux/arm64/v8"`)
	return cmd
}

// openInput opens the file of `load -i`, or standard input, on which an archive must come.
func (a *app) openInput(path string) (io.ReadCloser, error) {
	if path != "" {
		return os.Open(path)
	}
	if isTerminal(a.stdin) {
		return nil, errors.New("requested load from stdin, but stdin is empty")
	}
	return io.NopCloser(a.stdin), nil
}

// loadImages loads and tells what; on a terminal, unless quiet, the layers are shown on the way.
func (a *app) loadImages(ctx context.Context, r io.Reader, platforms []string, quiet bool) error {
	var opts load.Options
	var err error
	if opts.Platforms, err = parsePlatforms(platforms); err != nil {
		return err
	}
	if !quiet && isTerminal(a.stdout) {
		display := newTransferDisplay(a.stdout, false)
		defer display.Close()
		opts.Progress = func(name string, current, total int64) {
			words := "Loading layer"
			if current == total {
				words = "Load complete"
			}
			display.Layer(layerTitle(name), words, current, total)
		}
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	before, err := s.Images(ctx)
	if err != nil {
		return err
	}
	images, err := load.Load(ctx, s, r, opts)
	if err != nil {
		return err
	}
	for _, img := range images {
		if err := a.printLoaded(img, before); err != nil {
			return err
		}
	}
	return nil
}

// printLoaded tells of an image in Docker's words, and of the one that lost its name to it.
func (a *app) printLoaded(img store.Image, before []store.Image) error {
	if !img.Tagged() {
		_, err := fmt.Fprintln(a.stdout, "Loaded image ID:", img.ID)
		return err
	}
	for _, old := range before {
		if old.Name == img.Name && old.ID != img.ID {
			fmt.Fprintf(a.stdout, "The image %s already exists, renaming the old one with ID %s to empty string\n", view.Familiar(img.Name), old.ID)
		}
	}
	_, err := fmt.Fprintln(a.stdout, "Loaded image:", view.Familiar(img.Name))
	return err
}

// layerTitle is what a layer's file is shown as: the first digits of its digest, or of its directory in the old
// form of archives.
func layerTitle(name string) string {
	if dir, ok := strings.CutSuffix(name, "/layer.tar"); ok {
		name = dir
	}
	return view.ShortID(path.Base(name))
}
