package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/advise"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
	"github.com/slipway-build/slipway/internal/view"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

type adviseFlags struct{ file, image, target, format string }

func newAdviseCmd(a *app) *cobra.Command {
	var opts adviseFlags
	cmd := &cobra.Command{
		Use:   "advise [OPTIONS] [PATH]",
		Short: "Tell how the image of a Dockerfile becomes smaller, and its builds shorter",
		Long: `Tell how the image of a Dockerfile becomes smaller, and its builds shorter: each line with the bytes that it costs, measured in the image that was built
of it last, or the seconds, measured in its builds, and with the change as a patch where that is known. What is copied too early, sent for nothing or downloaded
again and again is known of builds with --trace-files alone.

    slipway advise --format patch | patch -p1

applies all changes that do not touch the same lines.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return a.runAdvise(cmd.Context(), dir, &opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVarP(&opts.file, "file", "f", "", `Name of the Dockerfile (default: "PATH/Dockerfile")`)
	f.StringVar(&opts.image, "image", "", "Image that was built of it (default: that of its last build)")
	f.StringVar(&opts.target, "target", "", "Stage that the image is of (default: that of the build, or the last)")
	f.StringVar(&opts.format, "format", "table", `Format output ("table", "json", "patch")`)
	return cmd
}

func (a *app) runAdvise(ctx context.Context, dir string, opts *adviseFlags) error {
	if !slices.Contains([]string{"", "table", "json", "patch"}, opts.format) {
		return fmt.Errorf("--format %q: want table, json or patch", opts.format)
	}
	file := opts.file
	if file == "" {
		file = filepath.Join(dir, "Dockerfile")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	img, last, err := builtOf(ctx, s, file, opts)
	if err != nil {
		return err
	}
	defer last.close()
	in := advise.Input{Name: filepath.Base(file), Text: string(text), Target: opts.target}
	if rel, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(rel) {
		in.Name = rel
	}
	if last != nil {
		in.Target = last.of.Target
		in.Built = last.left(ctx, s)
	}
	if in.Ignore, err = ignoreFile(dir, file, in.Name); err != nil {
		return err
	}
	if in.Report, err = imagesize.Measure(ctx, s, img.Name, img, imagesize.Options{}); err != nil {
		return err
	}
	if in.Tree, err = s.Tree(ctx, img.Layers, store.NeedDigests); err != nil {
		return err
	}
	findings, err := advise.Advise(in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return a.printAdvice(in, img, findings, opts.format)
}

// builtOf is the image that was built last of a Dockerfile, and that build; nil for an image that was named.
func builtOf(ctx context.Context, s *store.Store, file string, opts *adviseFlags) (store.Image, *lastBuild, error) {
	if opts.image != "" {
		img, err := view.UseImage(ctx, s, opts.image)
		return img, nil, err
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return store.Image{}, nil, err
	}
	records, err := build.Records(s)
	if err != nil {
		return store.Image{}, nil, err
	}
	for i := range records {
		r := &records[i]
		if r.Imported || r.File != abs || r.Error != "" || r.ImageID == "" || opts.target != "" && r.Target != opts.target {
			continue
		}
		for _, name := range append([]string{r.ImageID}, r.Names...) {
			img, err := view.UseImage(ctx, s, name)
			if err == nil && (img.ID.String() == r.ImageID || img.Target().Digest.String() == r.ImageID) {
				return img, openLast(r, records), nil
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return img, nil, err
			}
		}
	}
	return store.Image{}, nil, fmt.Errorf("the store has no image that was built of %s: build it first, or name one with --image", file)
}

func (a *app) printAdvice(in advise.Input, img store.Image, findings []advise.Finding, format string) error {
	switch format {
	case "patch":
		_, err := io.WriteString(a.stdout, advise.Patch(in, findings))
		return err
	case "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Dockerfile string           `json:"dockerfile"`
			Image      string           `json:"image"`
			Size       int64            `json:"size"`
			Findings   []advise.Finding `json:"findings"`
		}{in.Name, img.ID.String(), in.Report.Size, findings})
	}
	var b strings.Builder
	columns := columnsOf(a.stdout)
	for _, f := range findings {
		line := terminal.Line(f.Instruction)
		if columns > 0 {
			line = terminal.Short(line, max(columns-4, 12))
		}
		fmt.Fprintf(&b, "%s:%d: %s: %s\n    %s\n", terminal.Line(in.Name), f.Line, saves(&f, in.Report.Size), f.Rule, line)
		b.WriteString(terminal.Line("  "+f.What) + "\n" + terminal.Line("  Instead: "+f.Change) + "\n")
		if f.Patch != "" {
			b.WriteString("\n" + terminal.Text(f.Patch))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%s in %s (%s)\n", count(len(findings), "finding"), terminal.Line(in.Name), size(in.Report.Size))
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

// saves is what a finding is about: seconds of builds, or bytes of the image or the context.
func saves(f *advise.Finding, all int64) string {
	switch {
	case f.Seconds > 0:
		return timing.Seconds(time.Duration(f.Seconds * float64(time.Second)))
	case f.Context:
		return size(f.Bytes) + " of the context"
	}
	return fmt.Sprintf("%s (%s of the image)", size(f.Bytes), percent(f.Bytes, all))
}
