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

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/store"
)

// newBuildHistoryCmd is buildx' history: what builds have left in the store.
func newBuildHistoryCmd(a *app) *cobra.Command {
	cmd := group("history", "Commands to work on build records", newHistoryLsCmd(a), newHistoryInspectCmd(a), newHistoryLogsCmd(a), newHistoryRmCmd(a))
	addRefused(cmd, map[string]string{
		"export": "a record is a directory of files: builds/ID in the store, which info names",
		"import": "there is no Docker Desktop that would show the records of other machines",
		"open":   "there is no Docker Desktop that would show it: history inspect and history logs do",
		"trace":  notYet + ": history inspect --format json has the steps with their times",
	})
	return cmd
}

// maxHistory is how many records are listed, as BuildKit is asked for no more.
const maxHistory = 50

// buildRecords reads the records of builds: those that run first, the newest of the others after them.
func (a *app) buildRecords() (*store.Store, []build.Recorded, error) {
	if err := a.checkBuilder(); err != nil {
		return nil, nil, err
	}
	s, err := a.Store()
	if err != nil {
		return nil, nil, err
	}
	all, err := build.Records(s)
	slices.SortStableFunc(all, func(a, b build.Recorded) int {
		switch {
		case a.Running == b.Running:
			return 0
		case a.Running:
			return -1
		}
		return 1
	})
	return s, all, err
}

// buildRecord is the record that ref names, in buildx' ways: by its ID, also after BUILDER/NODE/; "^1" is the second newest,
// and "" the newest.
func (a *app) buildRecord(ref string) (*build.Recorded, error) {
	_, all, err := a.buildRecords()
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
		switch {
		case n < len(all):
			slices.SortStableFunc(all, func(a, b build.Recorded) int { return strings.Compare(b.ID, a.ID) })
			return &all[n], nil
		case n == 0:
			return nil, errors.New("no records found")
		}
		return nil, fmt.Errorf("no completed build found with offset %d", n)
	}
	i := slices.IndexFunc(all, func(r build.Recorded) bool { return r.ID == buildID(ref) })
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
			keep, err := historyFilters(filters)
			if err != nil {
				return err
			}
			if localOnly {
				top, err := repositoryTop()
				if err != nil {
					return err
				}
				keep = append(keep, func(r *build.Recorded) bool { return r.Context == top || strings.HasPrefix(r.Context, top+"/") })
			}
			_, all, err := a.buildRecords()
			if err != nil {
				return err
			}
			table, prefix := strings.HasPrefix(format, "table"), a.buildRef("")
			var rows []any
			for _, r := range all {
				if slices.ContainsFunc(keep, func(k recordFilter) bool { return !k(&r) }) || len(rows) == maxHistory {
					continue
				}
				rows = append(rows, &recordedRow{r: &r, ref: prefix + r.ID, trunc: table && !noTrunc})
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
	r     *build.Recorded
	ref   string
	trunc bool
}

// MarshalJSON gives what buildx gives.
func (r *recordedRow) MarshalJSON() ([]byte, error) {
	done, cached := stepCounts(&r.r.Record)
	m := map[string]any{
		"ref": r.ref, "name": r.Name(), "status": r.Status(), "created_at": r.r.Started.Format(time.RFC3339Nano),
		"total_steps": len(r.r.Steps), "completed_steps": done, "cached_steps": cached,
	}
	if !r.r.Running {
		m["completed_at"] = r.r.Started.Add(r.r.Took).Format(time.RFC3339Nano)
	}
	return json.Marshal(m)
}

// stepCounts counts the steps that have ended well, and those of them that were cached.
func stepCounts(r *build.Record) (done, cached int) {
	for _, s := range r.Steps {
		if s.Error == "" {
			done++
		}
		if s.Cached {
			cached++
		}
	}
	return done, cached
}

// Ref is the build's ID.
func (r *recordedRow) Ref() string { return r.r.ID }

// FullRef is its reference in metadata.
func (r *recordedRow) FullRef() string { return r.ref }

// Name is what was built.
func (r *recordedRow) Name() string {
	name := r.r.Name()
	if r.trunc && len(name) > 36 {
		return ".." + name[len(name)-34:]
	}
	return name
}

// Status is one of buildx' words.
func (r *recordedRow) Status() string {
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

// recordFilter reports whether a record is wanted.
type recordFilter func(*build.Recorded) bool

// historyFilters reads values of --filter, all of which have to match.
func historyFilters(values []string) (all []recordFilter, err error) {
	for _, v := range values {
		at := strings.IndexAny(v, "!<>=")
		if at < 0 {
			return nil, fmt.Errorf("invalid filter %q", v)
		}
		key, op := v[:at], v[at:at+1]
		if strings.HasPrefix(v[at+1:], "=") && op != "=" {
			op += "="
		}
		var f recordFilter
		switch value := v[at+len(op):]; key {
		case "ref", "repository", "status":
			f, err = textFilter(key, op, value)
		case "startedAt", "completedAt", "duration":
			f, err = timeFilter(key, op, value)
		default:
			err = fmt.Errorf("unsupported filter %q", v)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// textFilter compares texts: a status is the same, of the others the value is a part.
func textFilter(key, op, value string) (recordFilter, error) {
	if op != "=" && op != "!=" {
		return nil, fmt.Errorf("invalid separator for %q, expected = or !=", key+op+value)
	}
	return func(r *build.Recorded) bool {
		has := map[string]string{"ref": r.ID, "repository": r.Context, "status": string(recordStatus(r))}[key]
		if key == "status" && has == string(statusFailed) {
			has = "error" // as buildx' filter calls it
		}
		if op == "=" && key != "status" {
			return strings.Contains(has, value)
		}
		return (has == value) == (op == "=")
	}, nil
}

// timeFilter compares times and durations. A time is a point, or a duration before now.
func timeFilter(key, op, value string) (recordFilter, error) {
	if op == "=" || op == "!=" || op == "!" {
		return nil, fmt.Errorf("invalid separator for %q, expected <=, <, >= or >", key+op+value)
	}
	duration, err := time.ParseDuration(value)
	when := time.Now().Add(-duration)
	if err != nil && key != "duration" {
		when, err = time.Parse(time.RFC3339, value)
	}
	if err != nil {
		return nil, fmt.Errorf("invalid value of the filter %s: %q", key, value)
	}
	return func(r *build.Recorded) bool {
		var c int
		switch key {
		case "startedAt":
			c = r.Started.Compare(when)
		case "completedAt":
			c = -1
			if !r.Running {
				c = r.Started.Add(r.Took).Compare(when)
			}
		case "duration":
			c = int(r.Took - duration)
			if r.Running {
				c = int(-duration)
			}
		}
		return c < 0 && op[0] == '<' || c > 0 && op[0] == '>' || c == 0 && len(op) == 2
	}, nil
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
			s, all, err := a.buildRecords()
			if err != nil {
				return err
			}
			if every {
				_, _, err := s.PruneBuilds(store.History{})
				return err
			}
			for _, ref := range args {
				if !slices.ContainsFunc(all, func(r build.Recorded) bool { return r.ID == buildID(ref) }) {
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
