package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

type imageLsFlags struct {
	quiet, all, noTrunc, digests bool
	format                       string
	filters                      []string
}

func newImageLsCmd(a *app, use string) *cobra.Command {
	var opts imageLsFlags
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS] [REPOSITORY[:TAG]]",
		Short: "List images",
		Args:  maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			n, err := a.listImages(cmd.Context(), s, &opts, strings.Join(args, ""))
			if err == nil && n == 0 && use == "images" {
				a.hintAtCommand(args)
			}
			return err
		},
	}
	if use == "ls" {
		cmd.Aliases = []string{"list"}
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVarP(&opts.all, "all", "a", false, "Show all images (default hides dangling images)")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVar(&opts.digests, "digests", false, "Show digests")
	f.StringVar(&opts.format, "format", "", formatHelp)
	f.StringArrayVarP(&opts.filters, "filter", "f", nil, `Filter output based on conditions provided:
dangling=true, label=KEY[=VALUE], before=IMAGE, since=IMAGE,
until=TIME, reference=PATTERN`)
	return cmd
}

// listImages prints images, the newest first, and returns how many. As Docker's, it shows dangling ones only with --all or
// when they are asked for.
func (a *app) listImages(ctx context.Context, s *store.Store, opts *imageLsFlags, name string) (int, error) {
	args, err := view.ParseArgs(opts.filters, "dangling", "label", "before", "since", "until", "reference")
	if err != nil {
		return 0, err
	}
	if name != "" {
		args["reference"] = append(args["reference"], name)
	}
	filter, err := view.ParseImageFilter(args)
	if err != nil {
		return 0, err
	}
	if len(filter.Dangling) == 0 && !opts.all {
		filter.Dangling = []bool{false}
	}
	images, err := view.Images(ctx, s, filter)
	if err != nil {
		return 0, err
	}
	return len(images), printImages(ctx, a.stdout, s, opts, images)
}

// hintAtCommand tells of the command that somebody meant who looks for images of its name, as Docker does.
func (a *app) hintAtCommand(args []string) {
	commands := []string{"build", "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push", "rm", "save", "tag"}
	if len(args) == 1 && slices.Contains(commands, args[0]) {
		fmt.Fprintf(a.stderr, "No images found matching %q: did you mean \"%[2]s image %[1]s\"?\n", args[0], a.name)
	}
}

// printImages prints images, the newest first; with --quiet each ID once.
func printImages(ctx context.Context, w io.Writer, s *store.Store, opts *imageLsFlags, images []store.Image) error {
	slices.SortStableFunc(images, func(x, y store.Image) int {
		return cmp.Or(y.Created.Compare(x.Created), cmp.Compare(x.Name, y.Name))
	})
	seen := map[string]bool{}
	var rows []any
	for _, img := range images {
		row := &imageRow{ctx: ctx, s: s, img: img, noTrunc: opts.noTrunc}
		if opts.quiet && opts.format == "" && seen[row.ID()] {
			continue
		}
		seen[row.ID()] = true
		rows = append(rows, row)
	}
	if err := printList(w, imageFormat(opts), imageHeaders(), rows); err != nil {
		return err
	}
	for _, row := range rows {
		// An image of which a layer is gone, or is nothing that can be read, must not hide the others.
		var bad *store.LayerError
		if err := row.(*imageRow).err; err != nil && !errors.Is(err, store.ErrNotFound) && (!errors.As(err, &bad) || ctx.Err() != nil) {
			return err
		}
	}
	return nil
}

// imageFormat is the format of the list that the flags ask for.
func imageFormat(opts *imageLsFlags) string {
	digest := ""
	if opts.digests {
		digest = "{{.Digest}}\t"
	}
	return listFormat(opts.format, opts.quiet, "table {{.Repository}}\t{{.Tag}}\t"+digest+"{{.ID}}\t{{.CreatedSince}}\t{{.Size}}")
}

func imageHeaders() headers {
	return headers{
		"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
		"Size": "SIZE", "VirtualSize": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
	}
}

// imageRow is a line of `image ls`: the fields of Docker's templates.
type imageRow struct {
	ctx     context.Context
	s       *store.Store
	img     store.Image
	noTrunc bool
	err     error // of finding out the size
}

// MarshalJSON gives all fields.
func (r *imageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the digest of the image's config.
func (r *imageRow) ID() string {
	if r.noTrunc {
		return r.img.ID.String()
	}
	return view.ShortID(r.img.ID.String())
}

// Repository is the name without its tag.
func (r *imageRow) Repository() string {
	if !r.img.Tagged() {
		return "<none>"
	}
	repo, _ := store.FamiliarName(r.img.Name)
	return repo
}

// Tag is the name's tag.
func (r *imageRow) Tag() string {
	if !r.img.Tagged() {
		return "<none>"
	}
	_, tag := store.FamiliarName(r.img.Name)
	return tag
}

// Digest is that of the manifest, or of the index of several platforms, as the registry has it.
func (r *imageRow) Digest() string { return r.img.RepoDigest().String() }

// CreatedSince is the image's age in words.
func (r *imageRow) CreatedSince() string { return ago(r.img.Created) }

// CreatedAt is when the image was made.
func (r *imageRow) CreatedAt() string { return timestamp(r.img.Created) }

// Size is how much the files of all layers take.
func (r *imageRow) Size() string {
	if r.err == nil {
		r.err = r.s.Measure(r.ctx, &r.img)
	}
	if r.err != nil {
		return "N/A"
	}
	return size(r.img.Size)
}

// VirtualSize is the same as Size, as it is in Docker since 1.10.
func (r *imageRow) VirtualSize() string { return r.Size() }

// Containers, SharedSize and UniqueSize are what Docker's `image ls` does not find out either.
func (r *imageRow) Containers() string { return "N/A" }

// SharedSize see Containers.
func (r *imageRow) SharedSize() string { return "N/A" }

// UniqueSize see Containers.
func (r *imageRow) UniqueSize() string { return "N/A" }
