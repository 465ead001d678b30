package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/imagetools"
	"github.com/slipway-build/slipway/internal/terminal"
)

type imagetoolsInspectFlags struct {
	format string
	raw    bool
}

func newImagetoolsInspectCmd(a *app) *cobra.Command {
	var flags imagetoolsInspectFlags
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME",
		Short: "Show details of an image in the registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imagetoolsInspect(cmd.Context(), args[0], flags)
		},
	}
	if a.calls(cmd) {
		cmd.Flags().StringVar(&flags.format, "format", "", `Format the output using the given Go template (default "{{.Manifest}}")`)
		cmd.Flags().BoolVar(&flags.raw, "raw", false, "Show original, unformatted JSON manifest")
	}
	return cmd
}

func (a *app) imagetoolsInspect(ctx context.Context, name string, flags imagetoolsInspectFlags) error {
	if flags.format != "" && flags.raw {
		return errors.New("format and raw cannot be used together")
	}
	if err := a.checkBuilder(); err != nil {
		return err
	}
	tmpl, err := template.New("").Funcs(template.FuncMap{"json": indented}).Parse(flags.format)
	if err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	img, err := imagetools.Inspect(ctx, a.registry(), name)
	if err != nil {
		return err
	}
	switch {
	case flags.raw:
		_, err := a.stdout.Write(img.Raw) // without another byte, so that its digest is that of the manifest
		return err
	case flags.format == "", regexp.MustCompile(`^\{\{\s*\.Manifest\s*\}\}$`).MatchString(strings.TrimSpace(flags.format)):
		return printInspection(a.stdout, img)
	}
	return tmpl.Execute(a.stdout, &inspected{Name: name, ctx: ctx, img: img})
}

// indented is the function json of templates, buildx's own.
func indented(v any) (string, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return string(text), err
}

// printInspection prints an image as buildx does.
func printInspection(out io.Writer, img *imagetools.Inspection) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	line := terminal.Line // what a registry says makes no lines of its own
	fmt.Fprintf(w, "Name:\t%s\nMediaType:\t%s\nDigest:\t%s\n", img.Ref, line(img.Desc.MediaType), img.Desc.Digest)
	if err := w.Flush(); err != nil || !img.IsIndex() {
		return err
	}
	fmt.Fprint(w, "\t\nManifests:\t\n")
	if err := w.Flush(); err != nil {
		return err
	}
	for n, d := range img.Index.Manifests {
		if n > 0 {
			fmt.Fprint(w, "\t\n")
		}
		name := img.Ref.String()
		if l, err := img.Ref.WithDigest(d.Digest); err == nil {
			name = l.String()
		}
		fmt.Fprintf(w, "  Name:\t%s\n  MediaType:\t%s\n", name, line(d.MediaType))
		if err := printPlatform(w, d); err != nil {
			return err
		}
	}
	return w.Flush()
}

// printPlatform prints what an index says of a manifest, if it says a platform.
func printPlatform(w *tabwriter.Writer, d ocispec.Descriptor) error {
	p := d.Platform
	if p == nil {
		return nil
	}
	fmt.Fprintf(w, "  Platform:\t%s\n", terminal.Line(platforms.Format(*p)))
	for _, line := range []struct{ name, value string }{
		{"OSVersion", p.OSVersion}, {"OSFeatures", strings.Join(p.OSFeatures, ", ")}, {"URLs", strings.Join(d.URLs, ", ")},
	} {
		if line.value != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", line.name, terminal.Line(line.value))
		}
	}
	if len(d.Annotations) == 0 {
		return nil
	}
	fmt.Fprint(w, "  Annotations:\t\n")
	if err := w.Flush(); err != nil { // their columns are their own
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(d.Annotations)) {
		fmt.Fprintf(w, "    %s:\t%s\n", terminal.Line(k), terminal.Line(d.Annotations[k]))
	}
	return w.Flush()
}

// inspected is what templates see of an image. What takes more requests is asked for by a method: of an index with several
// platforms it is a map by platform.
type inspected struct {
	Name string

	ctx context.Context
	img *imagetools.Inspection
}

// inspectedIndex is an index as templates have it.
type inspectedIndex struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType,omitempty"`
	Digest        digest.Digest        `json:"digest"`
	Size          int64                `json:"size"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Annotations   map[string]string    `json:"annotations,omitempty"`
}

// Manifest is the descriptor of a manifest, and an index as it is.
func (i *inspected) Manifest() any {
	if !i.img.IsIndex() {
		return i.img.Desc
	}
	index := i.img.Index
	return inspectedIndex{index.SchemaVersion, index.MediaType, i.img.Desc.Digest, i.img.Desc.Size, index.Manifests, index.Annotations}
}

// Image is the config of the image.
func (i *inspected) Image() (any, error) {
	configs, err := i.img.Configs(i.ctx)
	if err != nil || len(configs) > 1 {
		return configs, err
	}
	var only *ocispec.Image
	for _, config := range configs {
		only = config
	}
	return only, nil
}

// Provenance tells how the image was built.
func (i *inspected) Provenance() (any, error) {
	all, err := i.img.Provenance(i.ctx)
	return onePlatform(i, all, err)
}

// SBOM tells what is in the image.
func (i *inspected) SBOM() (any, error) {
	all, err := i.img.SBOM(i.ctx)
	return onePlatform(i, all, err)
}

// onePlatform is that of the only platform, or all.
func onePlatform[T any](i *inspected, all map[string]T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if configs, err := i.img.Configs(i.ctx); err != nil || len(configs) > 1 {
		return all, err
	}
	var only T
	for _, v := range all {
		only = v
	}
	return only, nil
}

// MarshalJSON is the value of {{json .}}.
func (i *inspected) MarshalJSON() ([]byte, error) {
	image, err := i.Image()
	if err != nil {
		return nil, err
	}
	all := struct {
		Name     string `json:"name,omitempty"`
		Manifest any    `json:"manifest,omitempty"`
		Image    any    `json:"image,omitempty"`
	}{i.Name, i.Manifest(), image}
	return json.Marshal(all)
}
