package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// The formats of records of the build cache: buildx' table and what it calls pretty.
const (
	recordTable  = "table {{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAt}}"
	recordPretty = `ID:           {{.ID}}
{{- if .Parents}}
Parents:
{{- range .Parents}}
 - {{.}}
{{- end}}
{{- end}}
Created at:   {{.CreatedAt}}
Mutable:      {{.Mutable}}
Reclaimable:  {{.Reclaimable}}
Shared:       {{.Shared}}
Size:         {{.Size}}
{{- if .Description}}
Description:  {{.Description}}
{{- end}}
Usage count:  {{.UsageCount}}
{{- if .LastUsedAt}}
Last used:    {{.LastUsedAt}}
{{- end}}
{{- if .Type}}
Type:         {{.Type}}
{{- end}}
`
)

func newBuilderDuCmd(a *app) *cobra.Command {
	var verbose bool
	var format string
	var by []string
	cmd := &cobra.Command{
		Use:   "du [OPTIONS]",
		Short: "Disk usage",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case format != "" && verbose:
				return errors.New("--format and --verbose cannot be used together")
			case verbose, format == "pretty":
				format = recordPretty
			case format == "", format == "table":
				format = recordTable
			}
			filter, err := view.ParseCacheFilter(by)
			if err != nil {
				return err
			}
			if err := a.checkHere("ask the registry what the repository of the cache has"); err != nil {
				return err
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			records, err := view.CacheRecords(cmd.Context(), s, filter)
			if err != nil {
				return err
			}
			err = printRecords(a.stdout, format, records)
			if err == nil && len(by) == 0 && (format == recordTable || format == recordPretty) {
				err = printRecordSums(a.stdout, records)
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringArrayVar(&by, "filter", nil, `Provide filter values (e.g. "until=24h", "type=exec.cachemount", "id=ID")`)
	f.BoolVar(&verbose, "verbose", false, `Shorthand for "--format=pretty"`)
	f.StringVar(&format, "format", "", `Format the output ("pretty", "table", "json", or a Go template)`)
	statusTimeout(f)
	return cmd
}

// printRecords lists records of the build cache as buildx does.
func printRecords(w io.Writer, format string, records []store.CacheRecord) error {
	var rows []any
	for _, r := range records {
		rows = append(rows, &recordRow{r, strings.HasPrefix(format, "table")})
	}
	return printList(w, format, recordHeaders(), rows)
}

// printRecordSums adds up. What is shared with images is part of the total, as buildx has it.
func printRecordSums(w io.Writer, records []store.CacheRecord) error {
	var total, reclaimable, shared int64
	for _, r := range records {
		total += r.Size
		if !r.InUse {
			reclaimable += r.Size
		}
		if r.Shared {
			shared += r.Size
		}
	}
	tw := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	if shared > 0 {
		fmt.Fprintf(tw, "Shared:\t%s\nPrivate:\t%s\n", longSize(shared), longSize(total-shared))
	}
	fmt.Fprintf(tw, "Reclaimable:\t%s\nTotal:\t%s\n", longSize(reclaimable), longSize(total))
	return tw.Flush()
}

func recordHeaders() headers {
	return headers{
		"ID": "ID", "Parents": "PARENTS", "CreatedAt": "CREATED AT", "Mutable": "MUTABLE", "Reclaimable": "RECLAIMABLE", "Shared": "SHARED",
		"Size": "SIZE", "Description": "DESCRIPTION", "UsageCount": "USAGE COUNT", "LastUsedAt": "LAST ACCESSED", "Type": "TYPE",
	}
}

// recordRow is a line of `builder du`: the fields of buildx' templates.
type recordRow struct {
	r     store.CacheRecord
	table bool // marks what can change, and what is shared, with a star
}

// MarshalJSON gives all fields.
func (r *recordRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the record's name.
func (r *recordRow) ID() string { return r.r.ID + star(r.table && r.r.Mutable) }

// Parents are the records of the layers below.
func (r *recordRow) Parents() []string { return r.r.Parents }

// CreatedAt is when the record was made.
func (r *recordRow) CreatedAt() string { return r.r.Created.UTC().String() }

// Mutable tells what builds write to.
func (r *recordRow) Mutable() bool { return r.r.Mutable }

// Reclaimable tells what no container and no process uses.
func (r *recordRow) Reclaimable() bool { return !r.r.InUse }

// Shared tells what an image needs as well.
func (r *recordRow) Shared() bool { return r.r.Shared }

// Size is how much of the disk the record takes.
func (r *recordRow) Size() string { return longSize(r.r.Size) + star(r.table && r.r.Shared) }

// Description tells what made it.
func (r *recordRow) Description() string { return r.r.Description }

// UsageCount is how often it was used.
func (r *recordRow) UsageCount() int { return r.r.Uses }

// LastUsedAt is how long ago it was used, in words.
func (r *recordRow) LastUsedAt() string { return usedAgo(r.r.LastUsed) }

// Type is one of BuildKit's words.
func (r *recordRow) Type() string { return r.r.Type }

// usedAgo is empty for what nobody is known to have used.
func usedAgo(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ago(t)
}

func star(yes bool) string {
	if yes {
		return "*"
	}
	return ""
}
