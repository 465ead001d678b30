package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
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
	Volumes    []any // there are none
	BuildCache []*cacheUsageRow
	Builds     []*buildUsageRow

	images store.Usage
}

// usage finds out what takes space. Others may build, run and remove things meanwhile.
func (a *app) usage(ctx context.Context) (*usage, error) {
	m, err := a.containers()
	if err != nil {
		return nil, err
	}
	u := &usage{Images: []*imageUsageRow{}, Containers: []*containerUsageRow{}, Volumes: []any{}, BuildCache: []*cacheUsageRow{}, Builds: []*buildUsageRow{}}
	if u.images, err = m.Store.ImageUsage(ctx); err != nil {
		return nil, err
	}
	for _, img := range u.images.Images {
		u.Images = append(u.Images, &imageUsageRow{&imageRow{ctx: ctx, s: m.Store, img: img.Image}, img})
	}
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		row := &containerUsageRow{&containerRow{ctx: ctx, m: m, c: c, state: m.State(c.ID), opts: &containerLsFlags{}}, 0}
		row.own, err = m.Size(c)
		if err == nil {
			row.config, err = container.ReadConfig(c)
		}
		if err != nil {
			if _, gone := m.Store.Container(ctx, c.ID); errors.Is(gone, store.ErrNotFound) {
				continue
			}
			return nil, err
		}
		u.Containers = append(u.Containers, row)
	}
	records, err := m.Store.CacheRecords(ctx)
	if err != nil {
		return nil, err
	}
	sortRecords(records)
	for _, r := range records {
		u.BuildCache = append(u.BuildCache, &cacheUsageRow{r})
	}
	builds, err := m.Store.Builds()
	if err != nil {
		return nil, err
	}
	for _, b := range builds {
		u.Builds = append(u.Builds, &buildUsageRow{b})
	}
	return u, nil
}

// sums are the lines of `system df`. What the build cache shares with images counts as theirs.
func (u *usage) sums() []any {
	images := &usageRow{what: "Images", total: len(u.Images), bytes: u.images.Disk, free: u.images.Reclaimable, percent: true}
	for _, img := range u.Images {
		images.active += one(img.u.Containers > 0)
	}
	containers := &usageRow{what: "Containers", total: len(u.Containers), percent: true}
	for _, c := range u.Containers {
		containers.active += one(c.state.Running)
		containers.bytes += c.own
		if !c.state.Running {
			containers.free += c.own
		}
	}
	cache := &usageRow{what: "Build Cache", total: len(u.BuildCache)}
	for _, r := range u.BuildCache {
		cache.active += one(r.r.InUse)
		if r.r.Shared {
			continue
		}
		cache.bytes += r.r.Size
		if !r.r.InUse {
			cache.free += r.r.Size
		}
	}
	return []any{images, containers, &usageRow{what: "Local Volumes", percent: true}, cache}
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
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
			imageHeaders, anyRows(u.Images)},
		{"\nContainers space usage:", "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
			containerHeaders, anyRows(u.Containers)},
		{"\nLocal Volumes space usage:", "{{.Name}}\t{{.Links}}\t{{.Size}}",
			headers{"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}, nil},
		{"\nBuild cache usage: " + u.sums()[3].(*usageRow).Size(),
			"{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}", cacheHeaders, anyRows(u.BuildCache)},
		{"\nRecords of builds space usage: " + u.buildBytes(), "{{.ID}}\t{{.Status}}\t{{.EndedSince}}\t{{.Size}}", buildHeaders, anyRows(u.Builds)},
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
	what          string
	total, active int
	bytes, free   int64
	percent       bool // is told of what can be reclaimed
}

// MarshalJSON gives all fields.
func (r *usageRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// Type is what it is about.
func (r *usageRow) Type() string { return r.what }

// TotalCount is how many there are.
func (r *usageRow) TotalCount() string { return strconv.Itoa(r.total) }

// Active is how many of them are in use.
func (r *usageRow) Active() string { return strconv.Itoa(r.active) }

// Size is how much of the disk they take.
func (r *usageRow) Size() string { return longSize(r.bytes) }

// Reclaimable is how much of that nothing in use needs.
func (r *usageRow) Reclaimable() string {
	if r.percent && r.bytes > 0 {
		return fmt.Sprintf("%s (%d%%)", longSize(r.free), int(float64(r.free)*100/float64(r.bytes)))
	}
	return longSize(r.free)
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

// buildBytes is how much of the disk all records of builds take.
func (u *usage) buildBytes() string {
	var bytes int64
	for _, b := range u.Builds {
		bytes += b.r.Size
	}
	return longSize(bytes)
}
