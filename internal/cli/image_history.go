package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

type historyFlags struct {
	human, quiet, noTrunc bool
	format, platform      string
}

func newHistoryCmd(a *app) *cobra.Command {
	var opts historyFlags
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the history of an image",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return a.showHistory(cmd.Context(), s, args[0], &opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.human, "human", "H", true, "Print sizes and dates in human readable format")
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show image IDs")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&opts.format, "format", "", formatHelp)
	f.StringVar(&opts.platform, "platform", "", `Show history for the given platform, such as "linux/amd64"`)
	return cmd
}

func (a *app) showHistory(ctx context.Context, s *store.Store, name string, opts *historyFlags) error {
	platform, err := parsePlatform(opts.platform)
	if err != nil {
		return err
	}
	img, err := useImage(ctx, s, name)
	if err != nil {
		return err
	}
	if platform != nil {
		if img, err = forPlatform(ctx, s, img, *platform); err != nil {
			return err
		}
	}
	rows, err := historyRows(ctx, s, img, opts)
	if err != nil {
		return err
	}
	created := "{{.CreatedSince}}"
	if !opts.human {
		created = "{{.CreatedAt}}"
	}
	format := listFormat(opts.format, opts.quiet, "table {{.ID}}\t"+created+"\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}")
	return printList(a.stdout, format, historyHeaders, rows)
}

var historyHeaders = headers{
	"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
}

// historyRows lists the steps that made an image, the last one first. Only that has the image's ID: no
// images are made on the way.
func historyRows(ctx context.Context, s *store.Store, img store.Image, opts *historyFlags) ([]any, error) {
	config, err := imageConfig(ctx, s, img)
	if err != nil {
		return nil, err
	}
	var rows []any
	layers := img.Layers
	for _, h := range config.History {
		row := &historyRow{step: h, human: opts.human, noTrunc: opts.noTrunc, id: "<missing>"}
		if !h.EmptyLayer && len(layers) > 0 {
			if row.size, err = s.Size(ctx, layers[0]); err != nil {
				return nil, err
			}
			layers = layers[1:]
		}
		rows = append(rows, row)
	}
	slices.Reverse(rows)
	if len(rows) > 0 {
		rows[0].(*historyRow).id = img.ID.String()
	}
	return rows, nil
}

// historyRow is a line of `image history`: the fields of Docker's templates.
type historyRow struct {
	step           ocispec.History
	id             string
	size           int64
	human, noTrunc bool
}

// MarshalJSON gives all fields.
func (r *historyRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the image's for its last step.
func (r *historyRow) ID() string {
	if r.noTrunc {
		return r.id
	}
	return shortID(r.id)
}

// CreatedAt is when the step was made, or when its layer was.
func (r *historyRow) CreatedAt() string { return r.created().Local().Format(time.RFC3339) }

func (r *historyRow) created() time.Time {
	if r.step.Created == nil {
		return time.Time{}
	}
	return *r.step.Created
}

// CreatedSince is the step's age in words; times before 2000 are those of reproducible builds, and have none.
func (r *historyRow) CreatedSince() string {
	switch t := r.created(); {
	case !r.human:
		return r.CreatedAt()
	case t.Before(time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)):
		return "N/A"
	default:
		return ago(t)
	}
}

// CreatedBy is the instruction.
func (r *historyRow) CreatedBy() string {
	by := strings.ReplaceAll(r.step.CreatedBy, "\t", " ")
	if r.noTrunc {
		return by
	}
	return ellipsis(by, 45)
}

// Size is how much the files of the step's layer take.
func (r *historyRow) Size() string {
	if r.human {
		return size(r.size)
	}
	return strconv.FormatInt(r.size, 10)
}

// Comment tells who made the step.
func (r *historyRow) Comment() string { return r.step.Comment }
