package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newSaveCmd(a *app) *cobra.Command {
	var output string
	var platforms []string
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := parsePlatforms(platforms)
			if err != nil {
				return err
			}
			if output == "" && isTerminal(a.stdout) {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			images, err := savedImages(cmd.Context(), s, args, wanted)
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return export.Save(cmd.Context(), s, images, w) }
			if output == "" {
				return buffered(a.stdout, write)
			}
			if err := s.Again(cmd.Context(), output, func() error { return writeOutput(output, write) }); err != nil {
				return fmt.Errorf("failed to save image: %w", err)
			}
			return nil
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, `Save only the given platform(s), such as "linux/amd64,linux/arm64/v8"`)
	return cmd
}

// parsePlatforms reads the values of a --platform that takes several.
func parsePlatforms(values []string) ([]ocispec.Platform, error) {
	var all []ocispec.Platform
	for _, v := range values {
		p, err := parsePlatform(v)
		if err != nil {
			return nil, err
		}
		if p != nil {
			all = append(all, *p)
		}
	}
	return all, nil
}

// savedImages finds the images to be saved, each once, with the names they are saved under: the one that
// was given; all tags of a repository that was given without one; all names of an image that was given
// by its ID.
func savedImages(ctx context.Context, s *store.Store, args []string, wanted []ocispec.Platform) ([]export.Saved, error) {
	all, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	var out []export.Saved
	for _, arg := range args {
		images := tagsOf(all, arg)
		if len(images) == 0 {
			img, err := view.FindImage(ctx, s, arg)
			if err != nil {
				return nil, err
			}
			images = []store.Image{img}
			if full, err := store.NormalizeName(arg); err != nil || full != img.Name {
				images = slices.DeleteFunc(slices.Clone(all), func(i store.Image) bool { return i.ID != img.ID })
			}
		}
		if err := s.Hold(ctx, images...); err != nil {
			return nil, err
		}
		for _, img := range images {
			if out, err = addSaved(ctx, s, out, img, wanted); err != nil {
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

// addSaved adds an image with its name, or the name to the image that is there already.
func addSaved(ctx context.Context, s *store.Store, out []export.Saved, img store.Image, wanted []ocispec.Platform) ([]export.Saved, error) {
	name := img.Name
	tagged := img.Tagged()
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
	if tagged && !slices.Contains(out[at].Names, name) {
		out[at].Names = append(out[at].Names, name)
	}
	return out, nil
}

// buffered gives fn a buffer before w.
func buffered(w io.Writer, fn func(io.Writer) error) error {
	buf := bufio.NewWriterSize(w, 1<<20)
	if err := fn(buf); err != nil {
		return err
	}
	return buf.Flush()
}

// writeOutput writes a file that only its owner may read, and which appears under its name when it is whole.
// What is there and is no regular file is written into; a link stays, and what it leads to is written.
func writeOutput(path string, fn func(io.Writer) error) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // /dev/stdout, for one, is not to become a file
	}
	fi, err := os.Stat(path)
	if err == nil && fi.IsDir() {
		return fmt.Errorf("invalid output path: %s is a directory", path)
	}
	if err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(buffered(f, fn), f.Close())
	}
	return atomicfile.Write(path, atomicfile.Options{Mode: 0o600}, func(f *os.File) error {
		out := layer.NewSparseWriter(f)
		return errors.Join(buffered(out, fn), out.Flush())
	})
}
