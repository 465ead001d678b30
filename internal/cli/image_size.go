package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/view/imagesize"
)

type imageSizeFlags struct {
	format, platform   string
	maxSize, maxWasted string
	noTrunc            bool
	most               int
}

func newImageSizeCmd(a *app) *cobra.Command {
	var opts imageSizeFlags
	cmd := &cobra.Command{
		Use:   "size [OPTIONS] IMAGE",
		Short: "Show what takes the bytes of an image",
		Long: `Show what takes the bytes of an image: which instruction wrote them and in which directories they are, what later layers
hide of them, what stands there twice, and what package managers and compilers have left behind

` + imageSources + `

The exit code is 1 if a limit is exceeded.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showImageSize(cmd.Context(), args[0], &opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&opts.format, "format", "table", `Format output ("table", "markdown", "json")`)
	f.StringVar(&opts.platform, "platform", "", `Show a specific platform of the multi-platform image, such as "linux/amd64"`)
	f.StringVar(&opts.maxSize, "max-size", "", "Fail if the image has more bytes, such as 100MB")
	f.StringVar(&opts.maxWasted, "max-wasted", "", "Fail if later layers hide more bytes, such as 5MB or 10%")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	f.IntVar(&opts.most, "top", 10, "Number of rows of each list; of a JSON document ten times as many")
	return cmd
}

// sizeLimits reads the limits, before there is any work.
func (o *imageSizeFlags) limits() (size, wasted imagesize.Limit, err error) {
	if o.maxSize != "" {
		if size, err = imagesize.ParseLimit(o.maxSize, false); err != nil {
			return size, wasted, fmt.Errorf("--max-size: %w", err)
		}
	}
	if o.maxWasted != "" {
		if wasted, err = imagesize.ParseLimit(o.maxWasted, true); err != nil {
			return size, wasted, fmt.Errorf("--max-wasted: %w", err)
		}
	}
	return size, wasted, nil
}

func (a *app) showImageSize(ctx context.Context, name string, opts *imageSizeFlags) error {
	show := map[string]func(*app, *imagesize.Report, []imagesize.Verdict, *imageSizeFlags) error{
		"": (*app).imageSizeTable, "table": (*app).imageSizeTable, "markdown": (*app).imageSizeMarkdown, "json": (*app).imageSizeJSON,
	}[opts.format]
	if show == nil {
		return fmt.Errorf("--format %q: want table, markdown or json", opts.format)
	}
	if opts.most < 1 {
		return fmt.Errorf("--top %d: want 1 at least", opts.most)
	}
	size, wasted, err := opts.limits()
	if err != nil {
		return err
	}
	img, s, err := a.imageFor(ctx, name, opts.platform)
	if err != nil {
		return err
	}
	r, err := imagesize.Measure(ctx, s, name, img, imagesize.Options{Most: 10 * opts.most})
	if err != nil {
		return err
	}
	verdicts := r.Check(size, wasted)
	if err := show(a, r, verdicts, opts); err != nil {
		return err
	}
	for _, v := range verdicts {
		if v.Exceeded {
			return &codeError{code: 1}
		}
	}
	return nil
}

// imageSizeJSON prints everything as one document: docs/size.md has its fields.
func (a *app) imageSizeJSON(r *imagesize.Report, verdicts []imagesize.Verdict, _ *imageSizeFlags) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		*imagesize.Report
		Limits []imagesize.Verdict `json:"limits,omitempty"`
	}{r, verdicts})
}
