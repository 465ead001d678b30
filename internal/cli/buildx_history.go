package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
)

// newBuildHistoryCmd is buildx' history: what builds have left in the store.
func newBuildHistoryCmd(a *app) *cobra.Command {
	return group("history", "Commands to work on build records", historyCommands(a)...)
}

// newTopHistoryCmd is Docker's history of an image, and has the commands of the history of builds below it.
func newTopHistoryCmd(a *app) *cobra.Command {
	cmd := newHistoryCmd(a)
	cmd.Use, cmd.Short = "history [OPTIONS] IMAGE | COMMAND", "Show the history of an image, or work on build records"
	cmd.Long = "Show the history of an image, as \"image history\" does, which also takes one that is named as a command below."
	cmd.AddCommand(historyCommands(a)...)
	return cmd
}

func historyCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newHistoryLsCmd(a), newHistoryInspectCmd(a), newHistoryLogsCmd(a), newHistoryTraceCmd(a), newHistoryCompareCmd(a), newHistoryOpenCmd(a), newHistoryRmCmd(a), newHistoryExportCmd(a), newHistoryImportCmd(a),
	}
}

// maxHistory is how many records are listed, as BuildKit is asked for no more.
const maxHistory = 50

// buildRecords reads the records of builds that a filter takes, no more than limit.
func (a *app) buildRecords(filter history.Filter, limit int) (*store.Store, []history.Record, error) {
	if err := a.checkBuilder(); err != nil {
		return nil, nil, err
	}
	s, err := a.Store()
	if err != nil {
		return nil, nil, err
	}
	all, err := history.List(s, filter, limit)
	return s, all, err
}

// buildRecord is the record that ref names, in buildx' ways: by its ID, also after BUILDER/NODE/; "^1" is the second newest,
// and "" the newest of those that were built here.
func (a *app) buildRecord(ref string) (*history.Record, error) {
	_, all, err := a.buildRecords(nil, 0)
	if err != nil {
		return nil, err
	}
	if offset, ok := strings.CutPrefix(ref, "^"); ok || ref == "" {
		n := 0
		if ok {
			if n, err = strconv.Atoi(offset); err != nil || n < 0 {
				return nil, fmt.Errorf("invalid offset %q", ref)
			}
		}
		all = slices.DeleteFunc(all, func(r history.Record) bool { return r.Imported })
		switch {
		case n < len(all):
			slices.SortStableFunc(all, func(a, b history.Record) int { return strings.Compare(b.ID, a.ID) })
			return &all[n], nil
		case n == 0:
			return nil, errors.New("no records found")
		}
		return nil, fmt.Errorf("no completed build found with offset %d", n)
	}
	i := slices.IndexFunc(all, func(r history.Record) bool { return r.ID == buildID(ref) })
	if i < 0 {
		return nil, fmt.Errorf("no record found for ref %q", ref)
	}
	return &all[i], nil
}

// buildID is the ID in a reference, of which "buildx.build.ref" in metadata begins with a builder and its node.
func buildID(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// buildRef is the reference of a build in metadata.
func (a *app) buildRef(id string) string {
	b, err := a.useBuilder()
	if err != nil {
		b.Name, b.Node = "default", "default"
	}
	return b.Name + "/" + b.Node + "/" + id
}

func newHistoryLsCmd(a *app) *cobra.Command {
	var format string
	var noTrunc, localOnly bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List build records",
		Args:  exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			if format == "table" {
				format = "table {{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}\t{{.Link}}"
			}
			filter, err := history.ParseWords(filters)
			if err != nil {
				return err
			}
			if localOnly {
				top, err := repositoryTop()
				if err != nil {
					return err
				}
				inWords := filter
				filter = func(r *history.Record) bool {
					return (inWords == nil || inWords(r)) && (r.Context == top || strings.HasPrefix(r.Context, top+"/"))
				}
			}
			_, all, err := a.buildRecords(filter, maxHistory)
			if err != nil {
				return err
			}
			table, prefix := strings.HasPrefix(format, "table"), a.buildRef("")
			var rows []any
			for _, r := range all {
				rows = append(rows, &recordedRow{r: &r, ref: prefix + r.ID, table: table, trunc: table && !noTrunc})
			}
			return printList(a.stdout, format, headers{"Ref": "BUILD ID", "Name": "NAME", "Status": "STATUS", "CreatedAt": "CREATED AT", "Duration": "DURATION", "Link": ""}, rows)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", formatHelp)
	f.BoolVar(&noTrunc, "no-trunc", false, "Don't truncate output")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g., "status=error")`)
	f.BoolVar(&localOnly, "local", false, "List records of builds in the current repository only")
	return cmd
}

// recordedRow is a line of `history ls`.
type recordedRow struct {
	r            *history.Record
	ref          string
	table, trunc bool
}

// MarshalJSON gives what buildx gives.
func (r *recordedRow) MarshalJSON() ([]byte, error) {
	done, cached := r.r.Counts()
	m := map[string]any{
		"ref": r.ref, "name": r.Name(), "status": r.status(), "created_at": r.r.Started.Format(time.RFC3339Nano),
		"total_steps": len(r.r.Steps), "completed_steps": done, "cached_steps": cached,
	}
	if r.r.Imported {
		m["imported"] = true
	}
	if !r.r.Running {
		m["completed_at"] = r.r.Completed().Format(time.RFC3339Nano)
	}
	return json.Marshal(m)
}

// Ref is the build's ID.
func (r *recordedRow) Ref() string { return r.r.ID }

// FullRef is its reference in metadata.
func (r *recordedRow) FullRef() string { return r.ref }

// Name is what was built.
func (r *recordedRow) Name() string {
	name := r.r.Name()
	if r.table {
		name = terminal.Line(name)
	}
	if r.trunc && len(name) > 36 {
		return ".." + name[len(name)-34:]
	}
	return name
}

// Imported reports whether it was built elsewhere.
func (r *recordedRow) Imported() bool { return r.r.Imported }

// Status is one of buildx' words, in the table with one of ours.
func (r *recordedRow) Status() string {
	if r.table && r.r.Imported {
		return r.status() + " (imported)"
	}
	return r.status()
}

func (r *recordedRow) status() string {
	switch {
	case r.r.Running:
		return "Running"
	case r.r.Error != "":
		return "Error"
	}
	return "Completed"
}

// CreatedAt is how long ago it began, in words.
func (r *recordedRow) CreatedAt() string {
	return units.HumanDuration(time.Since(r.r.Started)) + " ago"
}

// Duration is how long it took, or takes already.
func (r *recordedRow) Duration() string {
	if r.r.Running {
		return buildDuration(r.r.Took) + "+"
	}
	return buildDuration(r.r.Took)
}

// Link is one to Docker Desktop: there is none.
func (r *recordedRow) Link() string { return "" }

// buildDuration is a duration in buildx' form.
func buildDuration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm %2ds", int(d.Minutes()), int(d.Seconds())%60)
}

// repositoryTop is the top of the git repository that the working directory is in.
func repositoryTop() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for top := dir; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			return top, nil
		}
		if top == "/" {
			return "", fmt.Errorf("could not find git repository for local filter: %s is in none", dir)
		}
	}
}

func newHistoryLogsCmd(a *app) *cobra.Command {
	var progress string
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] [REF]",
		Short: "Print the logs of a build record",
		Long:  "Print the log of a build on standard error, as buildx does; of one that runs as far as it is written.",
		Args:  maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			switch progress {
			case "plain", "auto", "":
			default:
				return fmt.Errorf("--progress %s: logs are kept as plain text", progress)
			}
			r, err := a.buildRecord(strings.Join(args, ""))
			if err != nil {
				return err
			}
			log, err := r.Log()
			if err != nil {
				return err
			}
			defer log.Close()
			if _, err := io.Copy(a.stderr, log); err != nil && !(r.Running && errors.Is(err, io.ErrUnexpectedEOF)) {
				return fmt.Errorf("reading the log of build %s: %w", r.ID, err)
			}
			return nil
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVar(&progress, "progress", "plain", `Set type of progress output ("plain")`)
	return cmd
}

func newHistoryRmCmd(a *app) *cobra.Command {
	var every bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] [REF...]",
		Short: "Remove build records",
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !every:
				return errors.New("rm requires at least one argument")
			case len(args) > 0 && every:
				return errors.New("rm requires either --all or at least one argument")
			}
			s, all, err := a.buildRecords(nil, 0)
			if err != nil {
				return err
			}
			if every {
				_, _, err := s.PruneBuilds(store.History{})
				return err
			}
			for _, ref := range args {
				if !slices.ContainsFunc(all, func(r history.Record) bool { return r.ID == buildID(ref) }) {
					err = errors.Join(err, fmt.Errorf("no record found for ref %q", ref))
					continue
				}
				err = errors.Join(err, s.RemoveBuild(buildID(ref)))
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVar(&every, "all", false, "Remove all build records but those of builds that run, and those that are pinned")
	return cmd
}
