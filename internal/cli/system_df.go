package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newSystemDfCmd(a *app) *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show disk usage",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := a.usage(cmd.Context())
			if err != nil {
				return err
			}
			table := format == "" || format == "table"
			switch {
			case verbose && table:
				return u.printTables(a.stdout)
			case verbose:
				return u.printTemplate(a.stdout, format)
			case table:
				format = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
			}
			return printList(a.stdout, format, usageHeaders, u.sums())
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	f.StringVar(&format, "format", "", formatHelp)
	return cmd
}

// usage is what takes space: the value of templates of `system df -v`.
type usage struct {
	Images     []*imageUsageRow
	Containers []*containerUsageRow
	Volumes    []*volumeUsageRow
	BuildCache []*cacheUsageRow
	Builds     []*buildUsageRow

	all     *view.Usage
	volumes view.Sum
}

// usage finds out what takes space.
func (a *app) usage(ctx context.Context) (*usage, error) {
	m, err := a.containers()
	if err != nil {
		return nil, err
	}
	all, err := view.DiskUsage(ctx, m)
	if err != nil {
		return nil, err
	}
	volumes, err := view.VolumeUsages(ctx, m)
	if err != nil {
		return nil, err
	}
	u := &usage{Images: []*imageUsageRow{}, Containers: []*containerUsageRow{}, Volumes: []*volumeUsageRow{}, BuildCache: []*cacheUsageRow{}, Builds: []*buildUsageRow{},
		all: all, volumes: view.VolumeSum(volumes)}
	for _, img := range all.Images.Images {
		u.Images = append(u.Images, &imageUsageRow{&imageRow{ctx: ctx, s: m.Store, img: img.Image}, img})
	}
	for _, c := range all.Containers {
		u.Containers = append(u.Containers, &containerUsageRow{&containerRow{ctx: ctx, m: m, c: c.Container, opts: &containerLsFlags{}}, c.Own})
	}
	for _, v := range volumes {
		u.Volumes = append(u.Volumes, &volumeUsageRow{v})
	}
	for _, r := range all.Cache {
		u.BuildCache = append(u.BuildCache, &cacheUsageRow{r})
	}
	for _, b := range all.Builds {
		u.Builds = append(u.Builds, &buildUsageRow{b})
	}
	return u, nil
}

// sums are the lines of `system df`.
func (u *usage) sums() []any {
	return []any{
		&usageRow{what: "Images", sum: u.all.ImageSum(), percent: true},
		&usageRow{what: "Containers", sum: u.all.ContainerSum(), percent: true},
		&usageRow{what: "Local Volumes", sum: u.volumes, percent: true},
		&usageRow{what: "Build Cache", sum: u.all.CacheSum()},
	}
}

// printTables lists everything that takes space, in Docker's tables.
func (u *usage) printTables(w io.Writer) error {
	var b bytes.Buffer
	for _, part := range []struct {
		title, format string
		heads         headers
		rows          []any
	}{
		{"Images space usage:", "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
			imageHeaders(), anyRows(u.Images)},
		{"\nContainers space usage:", "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
			containerHeaders(), anyRows(u.Containers)},
		{"\nLocal Volumes space usage:", "{{.Name}}\t{{.Links}}\t{{.Size}}",
			headers{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}, anyRows(u.Volumes)},
		{"\nBuild cache usage: " + longSize(u.all.CacheSum().Size),
			"{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}", cacheHeaders, anyRows(u.BuildCache)},
		{"\nRecords of builds space usage: " + longSize(u.all.BuildSum().Size), "{{.ID}}\t{{.Status}}\t{{.EndedSince}}\t{{.Size}}", buildHeaders, anyRows(u.Builds)},
	} {
		fmt.Fprint(&b, part.title, "\n\n")
		if err := printList(&b, "table "+part.format, part.heads, part.rows); err != nil {
			return err
		}
	}
	_, err := b.WriteTo(w)
	return err
}

func anyRows[T any](rows []T) (all []any) {
	for _, r := range rows {
		all = append(all, r)
	}
	return all
}

// printTemplate executes a template once, for everything that takes space.
func (u *usage) printTemplate(w io.Writer, format string) error {
	return printList(w, strings.TrimPrefix(format, "table "), nil, []any{u})
}

var usageHeaders = headers{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}

// usageRow is a line of `system df`: the fields of Docker's templates.
type usageRow struct {
	what    string
	sum     view.Sum
	percent bool // is told of what can be reclaimed
}

// MarshalJSON gives all fields.
func (r *usageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Type is what it is about.
func (r *usageRow) Type() string { return r.what }

// TotalCount is how many there are.
func (r *usageRow) TotalCount() string { return strconv.Itoa(r.sum.Total) }

// Active is how many of them are in use.
func (r *usageRow) Active() string { return strconv.Itoa(r.sum.Active) }

// Size is how much of the disk they take.
func (r *usageRow) Size() string { return longSize(r.sum.Size) }

// Reclaimable is how much of that nothing in use needs.
func (r *usageRow) Reclaimable() string {
	if r.percent && r.sum.Size > 0 {
		return fmt.Sprintf("%s (%d%%)", longSize(r.sum.Reclaimable), int(float64(r.sum.Reclaimable)*100/float64(r.sum.Size)))
	}
	return longSize(r.sum.Reclaimable)
}

// imageUsageRow is an image of `system df -v`. Its sizes are those on the disk.
type imageUsageRow struct {
	*imageRow
	u store.ImageUsage
}

// MarshalJSON gives all fields.
func (r *imageUsageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Size is how much of the disk all forms of its layers take.
func (r *imageUsageRow) Size() string { return size(r.u.Disk) }

// VirtualSize is the same as Size.
func (r *imageUsageRow) VirtualSize() string { return r.Size() }

// SharedSize is what other images need as well.
func (r *imageUsageRow) SharedSize() string { return longSize(r.u.Shared) }

// UniqueSize is what only this image needs.
func (r *imageUsageRow) UniqueSize() string { return longSize(r.u.Disk - r.u.Shared) }

// Containers is how many were made from it.
func (r *imageUsageRow) Containers() string { return strconv.Itoa(r.u.Containers) }

// containerUsageRow is a container of `system df -v`.
type containerUsageRow struct {
	*containerRow
	own int64
}

// MarshalJSON gives all fields.
func (r *containerUsageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Size is that of the writable layer.
func (r *containerUsageRow) Size() string { return size(r.own) }

// volumeUsageRow is a volume of `system df -v`: the fields of Docker's templates.
type volumeUsageRow struct{ u view.VolumeUsage }

// MarshalJSON gives all fields.
func (r *volumeUsageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Name is the volume's name.
func (r *volumeUsageRow) Name() string { return r.u.Name }

// Driver is what keeps it: the store.
func (r *volumeUsageRow) Driver() string { return "local" }

// Scope is that of the driver.
func (r *volumeUsageRow) Scope() string { return "local" }

// Mountpoint is its directory.
func (r *volumeUsageRow) Mountpoint() string { return r.u.Dir }

// Links is how many containers have it.
func (r *volumeUsageRow) Links() string { return strconv.Itoa(r.u.Links) }

// Size is that of its files.
func (r *volumeUsageRow) Size() string {
	if r.u.Size < 0 {
		return "N/A"
	}
	return longSize(r.u.Size)
}

var cacheHeaders = headers{
	"ID": "CACHE ID", "Parent": "PARENT", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED", "LastUsedSince": "LAST USED",
	"UsageCount": "USAGE", "InUse": "IN USE", "Shared": "SHARED", "Description": "DESCRIPTION",
}

// cacheUsageRow is a record of the build cache of `system df -v`: the fields of Docker's templates.
type cacheUsageRow struct{ r store.CacheRecord }

// MarshalJSON gives all fields.
func (r *cacheUsageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the record's name, with a star when it is in use.
func (r *cacheUsageRow) ID() string { return ellipsisID(r.r.ID) + star(r.r.InUse) }

// Parent are the records of the layers below.
func (r *cacheUsageRow) Parent() string { return strings.Join(r.r.Parents, ", ") }

// CacheType is one of BuildKit's words.
func (r *cacheUsageRow) CacheType() string { return r.r.Type }

// Description tells what made it.
func (r *cacheUsageRow) Description() string { return r.r.Description }

// Size is how much of the disk it takes.
func (r *cacheUsageRow) Size() string { return size(r.r.Size) }

// CreatedAt is when it was made.
func (r *cacheUsageRow) CreatedAt() string { return r.r.Created.UTC().String() }

// CreatedSince is how long ago that is, in words.
func (r *cacheUsageRow) CreatedSince() string { return ago(r.r.Created) }

// LastUsedAt is when it was used.
func (r *cacheUsageRow) LastUsedAt() string {
	if r.r.LastUsed.IsZero() {
		return ""
	}
	return r.r.LastUsed.UTC().String()
}

// LastUsedSince is how long ago that is, in words.
func (r *cacheUsageRow) LastUsedSince() string { return usedAgo(r.r.LastUsed) }

// UsageCount is how often it was used.
func (r *cacheUsageRow) UsageCount() string { return strconv.Itoa(r.r.Uses) }

// InUse tells of a container or a process that uses it.
func (r *cacheUsageRow) InUse() string { return strconv.FormatBool(r.r.InUse) }

// Shared tells what an image needs as well.
func (r *cacheUsageRow) Shared() string { return strconv.FormatBool(r.r.Shared) }

var buildHeaders = headers{"ID": "BUILD ID", "Status": "STATUS", "EndedSince": "ENDED", "Size": "SIZE"}

// buildUsageRow is the record of a build with its log, of `system df -v`.
type buildUsageRow struct{ r store.BuildRecord }

// MarshalJSON gives all fields.
func (r *buildUsageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the name of its directory.
func (r *buildUsageRow) ID() string { return r.r.Name }

// Status tells whether it may go.
func (r *buildUsageRow) Status() string {
	switch {
	case r.r.Running:
		return "running"
	case r.r.Pinned:
		return "pinned"
	}
	return "ended"
}

// EndedSince is how long ago it ended, in words.
func (r *buildUsageRow) EndedSince() string {
	if r.r.Running {
		return ""
	}
	return ago(r.r.Ended)
}

// Size is how much of the disk it takes.
func (r *buildUsageRow) Size() string { return size(r.r.Size) }
