package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/load"
	"github.com/slipway-build/slipway/internal/store"
)

func newImportCmd(a *app) *cobra.Command {
	var changes []string
	var message, platform string
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short: "Import the contents from a tarball to create a filesystem image",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := load.ImportOptions{Comment: message, Created: time.Now().UTC()}
			var err error
			if opts.Platform, err = parsePlatform(platform); err != nil {
				return err
			}
			if opts.Config, err = load.ParseChanges(changes); err != nil {
				return err
			}
			if len(args) == 2 {
				if opts.Name, err = importName(args[1]); err != nil {
					return err
				}
			}
			return a.importImage(cmd.Context(), args[0], opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringArrayVarP(&changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.StringVarP(&message, "message", "m", "", "Set commit message for imported image")
	f.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform of the image")
	return cmd
}

// rangeArgs checks that there are some arguments and not too many.
func rangeArgs(from, to int) cobra.PositionalArgs {
	return cobra.MatchAll(minArgs(from), maxArgs(to))
}

// importName is the full form of the name for an imported image.
func importName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("%w: %q", err, name)
	}
	if _, digested := ref.(reference.Digested); digested {
		return "", fmt.Errorf("cannot import digest reference")
	}
	return store.NormalizeName(name)
}

func (a *app) importImage(ctx context.Context, source string, opts load.ImportOptions) error {
	s, err := a.Store()
	if err != nil {
		return err
	}
	from, r, err := a.openImport(ctx, source)
	if err != nil {
		return err
	}
	defer r.Close()
	if opts.Comment == "" {
		opts.Comment = "Imported from " + from
	}
	img, err := load.Import(ctx, s, r, opts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, img.ID)
	return err
}

// openImport opens what is imported: standard input, a URL or a file. from is what Docker calls it: "-" for
// all but URLs.
func (a *app) openImport(ctx context.Context, source string) (from string, r io.ReadCloser, err error) {
	switch {
	case source == "-":
		return "-", io.NopCloser(a.stdin), nil
	case strings.HasPrefix(source, "https://"), strings.HasPrefix(source, "http://"):
		r, err = load.Download(ctx, source, "slipway/"+version())
		return source, r, err
	}
	f, err := os.Open(source)
	return "-", f, err
}
