package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view"
)

func newTopCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.container(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			titles, rows, err := m.Top(cmd.Context(), c, args[1:])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.stdout, 20, 1, 3, ' ', 0)
			for _, row := range append([][]string{titles}, rows...) {
				for i := range row {
					row[i] = terminal.Line(row[i])
				}
				fmt.Fprintln(w, strings.Join(row, "\t"))
			}
			return w.Flush()
		},
	}
	if a.calls(cmd) {
		cmd.Flags().SetInterspersed(false)
	}
	return cmd
}

func newStatsCmd(a *app) *cobra.Command {
	var all, noStream, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display what containers use of processors and memory",
		RunE: func(cmd *cobra.Command, args []string) error {
			for {
				rows, err := a.stats(cmd.Context(), args, all, noTrunc)
				if err != nil {
					return err
				}
				def := "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.PIDs}}"
				if err := printList(a.stdout, listFormat(format, false, def), statsHeaders(), rows); err != nil || noStream {
					return err
				}
			}
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers (default shows just running)")
	f.BoolVar(&noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate output")
	f.StringVar(&format, "format", "", formatHelp)
	return cmd
}

func statsHeaders() headers {
	return headers{"ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "PIDs": "PIDS"}
}

// statsTime is the time between two looks of which the use of processors is told.
const statsTime = time.Second

// stats looks at containers twice.
func (a *app) stats(ctx context.Context, names []string, all, noTrunc bool) (rows []any, err error) {
	m, err := a.containers()
	if err != nil {
		return nil, err
	}
	chosen, err := view.Containers(ctx, m, view.ContainerFilter{All: all || len(names) > 0})
	if err != nil {
		return nil, err
	}
	var list []*statsRow
	for _, c := range chosen {
		list = append(list, &statsRow{c: c, noTrunc: noTrunc})
	}
	if len(names) > 0 {
		var named []*statsRow
		for _, name := range names {
			c, err := view.FindContainer(ctx, m.Store, name)
			if err != nil {
				return nil, err
			}
			for _, row := range list {
				if row.c.ID == c.ID {
					named = append(named, row)
				}
			}
		}
		list = named
	}
	for _, row := range list {
		row.before, _ = m.Stats(ctx, row.c.Container) // one that does not run has none
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(statsTime):
	}
	for _, row := range list {
		row.now, _ = m.Stats(ctx, row.c.Container)
		if row.now != nil && row.now.Limit == 0 {
			row.now.Limit = memory()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// statsRow is a line of `stats`: the fields of Docker's templates.
type statsRow struct {
	c           view.Container
	before, now *container.Stats // nil: it does not run
	noTrunc     bool
}

// MarshalJSON gives all fields.
func (r *statsRow) MarshalJSON() ([]byte, error) { return json.Marshal(rowFields(r)) }

func rowFields(r *statsRow) map[string]string {
	return map[string]string{"ID": r.ID(), "Container": r.Container(), "Name": r.Name(), "CPUPerc": r.CPUPerc(), "MemUsage": r.MemUsage(), "MemPerc": r.MemPerc(), "PIDs": r.PIDs()}
}

// ID is the container's ID.
func (r *statsRow) ID() string {
	if r.noTrunc {
		return r.c.ID
	}
	return view.ShortID(r.c.ID)
}

// Container is the same.
func (r *statsRow) Container() string { return r.ID() }

// Name is the container's.
func (r *statsRow) Name() string { return r.c.Name }

// CPUPerc is what it uses of one processor.
func (r *statsRow) CPUPerc() string {
	if r.before == nil || r.now == nil {
		return "0.00%"
	}
	used := r.now.User + r.now.System - r.before.User - r.before.System
	return fmt.Sprintf("%.2f%%", 100*max(0, float64(used)/float64(r.now.Time.Sub(r.before.Time))))
}

// MemUsage is how much memory it has, and may have.
func (r *statsRow) MemUsage() string {
	if r.now == nil {
		return "0B / 0B"
	}
	return units.BytesSize(float64(r.now.Memory)) + " / " + units.BytesSize(float64(r.now.Limit))
}

// MemPerc is the one as part of the other.
func (r *statsRow) MemPerc() string {
	if r.now == nil || r.now.Limit == 0 {
		return "0.00%"
	}
	return fmt.Sprintf("%.2f%%", 100*float64(r.now.Memory)/float64(r.now.Limit))
}

// PIDs is how many processes and threads it has.
func (r *statsRow) PIDs() string {
	if r.now == nil {
		return "0"
	}
	return fmt.Sprint(r.now.Pids)
}
