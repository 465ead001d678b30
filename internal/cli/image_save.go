package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/atomicfile"
	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/transfer"
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
			images, err := transfer.Saved(cmd.Context(), s, args, wanted)
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
