package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
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
	img, err := view.UseImage(ctx, s, name)
	if err != nil {
		return err
	}
	if platform != nil {
		if img, err = view.ForPlatform(ctx, s, img, *platform); err != nil {
			return err
		}
	}
	steps, err := view.ImageHistory(ctx, s, img)
	if err != nil {
		return err
	}
	var rows []any
	for _, step := range steps {
		rows = append(rows, &historyRow{step: step, human: opts.human, noTrunc: opts.noTrunc})
	}
	created := "{{.CreatedSince}}"
	if !opts.human {
		created = "{{.CreatedAt}}"
	}
	format := listFormat(opts.format, opts.quiet, "table {{.ID}}\t"+created+"\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}")
	return printList(a.stdout, format, historyHeaders(), rows)
}

func historyHeaders() headers {
	return headers{
		"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
	}
}

// historyRow is a line of `image history`: the fields of Docker's templates.
type historyRow struct {
	step           view.HistoryStep
	human, noTrunc bool
}

// MarshalJSON gives all fields.
func (r *historyRow) MarshalJSON() ([]byte, error) { return marshalRow(r) }

// ID is the image's for its last step.
func (r *historyRow) ID() string {
	switch id := r.step.ID.String(); {
	case id == "":
		return "<missing>"
	case r.noTrunc:
		return id
	default:
		return view.ShortID(id)
	}
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
		return size(r.step.Size)
	}
	return strconv.FormatInt(r.step.Size, 10)
}

// Comment tells who made the step.
func (r *historyRow) Comment() string { return r.step.Comment }
