package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/imagetools"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry"
)

func newImagetoolsCmd(a *app) *cobra.Command {
	cmd := group("imagetools", "Commands to work on images in registry", newImagetoolsCreateCmd(a), newImagetoolsInspectCmd(a))
	a.builderFlag(cmd.PersistentFlags())
	return cmd
}

type imagetoolsCreateFlags struct {
	files, tags, annotations, platforms []string
	dryRun, add, preferIndex            bool
	progress, metadataFile              string
}

func newImagetoolsCreateCmd(a *app) *cobra.Command {
	var flags imagetoolsCreateFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [SOURCE...]",
		Short: "Create a new image based on source images",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imagetoolsCreate(cmd.Context(), args, flags)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.annotations, "annotation", nil, `Add annotation to the image (format: "TYPE[PLATFORM],...:KEY=VALUE"; types: "index", "manifest-descriptor")`)
	f.BoolVar(&flags.add, "append", false, "Append to existing manifest")
	f.BoolVar(&flags.dryRun, "dry-run", false, "Show final image instead of pushing")
	f.StringArrayVarP(&flags.files, "file", "f", nil, "Read source descriptor from file")
	f.StringVar(&flags.metadataFile, "metadata-file", "", "Write create result metadata to a file")
	f.StringArrayVarP(&flags.platforms, "platform", "p", nil, "Filter specified platforms of target image")
	f.BoolVar(&flags.preferIndex, "prefer-index", true, "When only a single source is specified, prefer outputting an image index or manifest list instead of performing a carbon copy")
	f.StringVar(&flags.progress, "progress", "auto", `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty")`)
	f.StringArrayVarP(&flags.tags, "tag", "t", nil, "Set reference for new image")
	return cmd
}

func (a *app) imagetoolsCreate(ctx context.Context, args []string, flags imagetoolsCreateFlags) error {
	if err := a.checkBuilder(); err != nil {
		return err
	}
	req, err := flags.request(args)
	if err != nil {
		return err
	}
	img, err := imagetools.Create(ctx, a.registry(), req)
	if err != nil {
		return err
	}
	if flags.dryRun {
		_, err := fmt.Fprintf(a.stdout, "%s\n", img.Raw)
		return err
	}
	if err := a.pushMade(ctx, img, flags.progress); err != nil || flags.metadataFile == "" {
		return err
	}
	return writeMetadata(flags.metadataFile, map[string]any{
		exptypes.ExporterImageDescriptorKey: img.Desc,
		exptypes.ExporterImageNameKey:       strings.Join(img.Repositories(), ","),
	})
}

// request is what the command line asks for.
func (f *imagetoolsCreateFlags) request(args []string) (req imagetools.Request, err error) {
	switch {
	case len(args) == 0 && len(f.files) == 0:
		return req, errors.New("no sources specified")
	case !f.dryRun && len(f.tags) == 0:
		return req, errors.New("can't push with no tags specified, please set --tag or --dry-run")
	}
	req = imagetools.Request{Tags: f.tags, Append: f.add, PreferIndex: f.preferIndex}
	for _, name := range f.files {
		text, err := readDescriptor(name)
		if err != nil {
			return req, fmt.Errorf("reading --file: %w", err)
		}
		req.Sources = append(req.Sources, text)
	}
	req.Sources = append(req.Sources, args...)
	for _, value := range f.platforms {
		for _, name := range strings.Split(value, ",") {
			p, err := platforms.Parse(name)
			if err != nil {
				return req, fmt.Errorf("invalid platform %q: %w", name, err)
			}
			req.Platforms = append(req.Platforms, p)
		}
	}
	req.Annotations = map[exptypes.AnnotationKey]string{}
	for _, v := range f.annotations {
		if v == "" {
			continue
		}
		keys, value, err := parseAnnotation(v)
		if err != nil {
			return req, fmt.Errorf("failed to parse annotations: %w", err)
		}
		for _, k := range keys {
			req.Annotations[k] = value
		}
	}
	return req, nil
}

// readDescriptor reads a file with a source. It is no larger than a manifest may be.
func readDescriptor(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, registry.MaxManifestSize+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	if len(data) > registry.MaxManifestSize {
		return "", fmt.Errorf("%s is larger than %d bytes: it is no descriptor", name, registry.MaxManifestSize)
	}
	return string(data), nil
}

// pushMade pushes an image to its repositories, each of which is a step that is shown.
func (a *app) pushMade(ctx context.Context, img *imagetools.Image, mode string) (err error) {
	display, err := a.display(ctx, mode)
	if err != nil {
		return err
	}
	defer display.Wait()
	g, ctx := errgroup.WithContext(ctx)
	for _, repo := range img.Repositories() {
		g.Go(func() error {
			name := "[internal] pushing " + repo
			step := progress.Start(display, progress.Vertex{Digest: digest.FromString(name), Name: name})
			err := img.Push(ctx, a.registry(), repo, imagetools.Events{
				Log:  func(line string) { fmt.Fprintln(step.Stdout(), line) },
				Blob: func(e registry.CopyEvent) { showCopy(step, e) },
			})
			step.Done(err)
			return err
		})
	}
	return g.Wait()
}

// showCopy shows how far a blob is that has to be sent, unless it is so small that nobody waits for it.
func showCopy(step *progress.Step, e registry.CopyEvent) {
	switch {
	case e.Desc.Size < 64<<10, e.Pushed.Existed, e.Pushed.MountedFrom != "":
	case e.Done:
		step.Status("copying "+e.Desc.Digest.String(), e.Desc.Size, e.Desc.Size, true)
	default:
		step.Status("copying "+e.Desc.Digest.String(), e.Sent, e.Desc.Size, false)
	}
}
