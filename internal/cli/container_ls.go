package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/templates"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/view"
)

type containerLsFlags struct {
	all, quiet, noTrunc, latest, size bool
	sizeSet                           bool // --size was given, or --size=false
	last                              int
	format                            string
	filters                           []string
}

func newContainerLsCmd(a *app, use string) *cobra.Command {
	var opts containerLsFlags
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS]",
		Short: "List containers",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.sizeSet = cmd.Flags().Changed("size")
			return a.listContainers(cmd.Context(), &opts)
		},
	}
	if use == "ls" {
		cmd.Aliases = []string{"ps", "list"}
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&opts.size, "size", "s", false, "Display total file sizes")
	f.BoolVarP(&opts.all, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&opts.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.IntVarP(&opts.last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.StringVar(&opts.format, "format", "", formatHelp)
	f.StringArrayVarP(&opts.filters, "filter", "f", nil, `Filter output based on conditions provided:
ancestor=IMAGE, before=CONTAINER, exited=CODE, id=ID, label=KEY[=VALUE], name=REGEXP,
network=NAME, since=CONTAINER, status=STATE, volume=PATH`)
	return cmd
}

func containerHeaders() headers {
	return headers{
		"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS",
		"Ports": "PORTS", "Names": "NAMES", "CreatedAt": "CREATED AT", "State": "STATE", "Size": "SIZE", "Labels": "LABELS",
		"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM", "HealthStatus": "HEALTH STATUS",
	}
}

// listContainers prints containers, the newest first. As Docker's, it shows what runs, unless others
// are asked for: with --all, --last, --latest, or by their status.
func (a *app) listContainers(ctx context.Context, opts *containerLsFlags) error {
	args, err := view.ParseArgs(opts.filters, "ancestor", "before", "exited", "id", "label", "name", "network", "since", "status", "volume")
	if err != nil {
		return err
	}
	if err := opts.checkFormat(a.stderr); err != nil {
		return err
	}
	m, err := a.containers()
	if err != nil {
		return err
	}
	filter, err := view.ParseContainerFilter(args)
	if err != nil {
		return err
	}
	filter.All, filter.Limit = opts.all, opts.last
	if opts.latest && opts.last == -1 {
		filter.Limit = 1
	}
	all, err := view.Containers(ctx, m, filter)
	if err != nil {
		return err
	}
	var rows []any
	for _, c := range all {
		rows = append(rows, &containerRow{ctx: ctx, m: m, c: c, opts: opts})
	}
	if err := printList(a.stdout, opts.listFormat(), containerHeaders(), rows); err != nil {
		return err
	}
	for _, row := range rows {
		if err := row.(*containerRow).err; err != nil {
			return err
		}
	}
	return nil
}

// checkFormat tries the template, so that a mistake in it is told although there are no containers,
// and finds out whether it wants sizes.
func (o *containerLsFlags) checkFormat(stderr io.Writer) error {
	if o.format == "" {
		return nil
	}
	if o.quiet {
		fmt.Fprintln(stderr, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
	}
	tmpl, err := templates.Parse(o.format)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	try := &containerRow{ctx: context.Background(), opts: &containerLsFlags{}, c: view.Container{Config: &container.Config{}}}
	if err := tmpl.Execute(io.Discard, try); err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	if try.sized && !o.quiet && !o.sizeSet {
		o.size = true
	}
	return nil
}

func (o *containerLsFlags) listFormat() string {
	if o.quiet {
		return "{{.ID}}"
	}
	def := "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
	if o.size {
		def += "\t{{.Size}}"
	}
	return listFormat(o.format, false, def)
}

// containerRow is a line of `container ls`: the fields of Docker's templates.
type containerRow struct {
	ctx   context.Context
	m     *container.Manager // nil: there is no container, the template is only tried
	c     view.Container
	opts  *containerLsFlags
	sized bool  // the size was asked for
	err   error // of finding out the size
}

// MarshalJSON gives all fields.
func (r *containerRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the container's ID.
func (r *containerRow) ID() string {
	if r.opts.noTrunc {
		return r.c.ID
	}
	return view.ShortID(r.c.ID)
}

// Names is the container's one name.
func (r *containerRow) Names() string { return r.c.Name }

// Image is the image's name as it was given, or its ID if the name means another image by now.
func (r *containerRow) Image() string {
	if r.m == nil {
		return ""
	}
	if !r.c.ImageIsNamed(r.ctx, r.m.Store) {
		if r.opts.noTrunc {
			return r.c.ImageID.String()
		}
		return view.ShortID(r.c.ImageID.String())
	}
	if r.opts.noTrunc {
		return r.c.Image
	}
	ref, err := reference.ParseNormalizedNamed(r.c.Image)
	if err != nil || strings.HasPrefix(r.c.ImageID.Encoded(), r.c.Image) {
		return ellipsisID(r.c.Image)
	}
	return reference.FamiliarString(ref)
}

// ellipsisID shortens what is a full ID.
func ellipsisID(name string) string {
	if strings.HasPrefix(name, "sha256:") || len(name) == 64 {
		return view.ShortID(name)
	}
	return name
}

// Command is what is run, in quotes.
func (r *containerRow) Command() string {
	command := r.c.Command()
	if !r.opts.noTrunc {
		command = ellipsis(command, 20)
	}
	return strconv.Quote(command)
}

// CreatedAt is when the container was created.
func (r *containerRow) CreatedAt() string { return timestamp(r.c.Created) }

// RunningFor is how long ago that is, in words.
func (r *containerRow) RunningFor() string { return ago(r.c.Created) }

// Ports is empty: no ports are published.
func (r *containerRow) Ports() string { return "" }

// State is one word.
func (r *containerRow) State() string { return r.c.State.Word() }

// Status is the state with times and exit code.
func (r *containerRow) Status() string { return r.c.Status() }

// HealthStatus is empty: health is not watched.
func (r *containerRow) HealthStatus() string { return "" }

// Size is that of the writable layer, and of all layers: "2B (virtual 21.5MB)".
func (r *containerRow) Size() string {
	r.sized = true
	if r.m == nil || !r.opts.size {
		return size(0)
	}
	own, all, err := r.c.Sizes(r.ctx, r.m)
	if err != nil {
		r.err = err
		return "N/A"
	}
	if all == 0 {
		return size(own)
	}
	return fmt.Sprintf("%s (virtual %s)", size(own), size(all))
}

// Labels are all labels, KEY=VALUE, sorted.
func (r *containerRow) Labels() string {
	var all []string
	for k, v := range r.c.Config.Labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// Label is the value of one label.
func (r *containerRow) Label(name string) string { return r.c.Config.Labels[name] }

// Mounts are the sources of volumes.
func (r *containerRow) Mounts() string {
	var all []string
	for _, m := range r.c.Config.Mounts {
		if m.Bind == "" {
			continue
		}
		name := m.Bind
		if !r.opts.noTrunc {
			name = ellipsis(name, 15)
		}
		all = append(all, name)
	}
	return strings.Join(all, ",")
}

// LocalVolumes is the number of volumes of the store that it has, which Docker's clients give.
func (r *containerRow) LocalVolumes() string {
	n := 0
	for _, m := range r.c.Config.Mounts {
		if m.Bind != "" && r.m.VolumeOf(m.Bind) != "" {
			n++
		}
	}
	return strconv.Itoa(n)
}

// Networks are the names of the networks.
func (r *containerRow) Networks() string { return strings.Join(r.c.Config.NetworkNames(), ",") }

// Platform is that of the image; nil when the image is gone.
func (r *containerRow) Platform() *ocispec.Platform {
	if r.m == nil {
		return nil
	}
	return r.c.Platform(r.ctx, r.m.Store)
}
