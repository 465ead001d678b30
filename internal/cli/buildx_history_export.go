package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/serve/control"
)

func newHistoryExportCmd(a *app) *cobra.Command {
	var output string
	var every, finalize bool
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] [REF...]",
		Short: "Export build records into Docker Desktop bundle",
		Long:  "Write records of builds that have ended to a file, or to standard output, in the form that Docker Desktop, GitHub's build summaries and history import read. Without REF it is the newest one.",
		RunE: func(_ *cobra.Command, args []string) error {
			if every && len(args) > 0 {
				return errors.New("cannot specify refs when using --all")
			}
			records, err := a.endedRecords(every, args)
			if err != nil {
				return err
			}
			return a.exportRecords(records, output)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Output file path")
	cmd.Flags().BoolVar(&every, "all", false, "Export all build records")
	cmd.Flags().BoolVar(&finalize, "finalize", false, "Without effect: records are complete when their builds have ended")
	return cmd
}

// endedRecords are all records of builds that have ended, or those with some refs, or the newest one.
func (a *app) endedRecords(every bool, refs []string) ([]history.Record, error) {
	if len(refs) > 0 {
		var records []history.Record
		for _, ref := range refs {
			r, err := a.buildRecord(ref)
			if err != nil {
				return nil, err
			}
			if r.Running {
				return nil, fmt.Errorf("no record found for ref %q: its build runs", ref)
			}
			records = append(records, *r)
		}
		return records, nil
	}
	_, all, err := a.buildRecords(func(r *history.Record) bool { return !r.Running && (every || !r.Imported) }, 0)
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		return nil, errors.New("no records found")
	case !every:
		all = all[:1]
	}
	return all, nil
}

// exportRecords writes records as buildx does.
func (a *app) exportRecords(records []history.Record, output string) error {
	s, err := a.Store()
	if err != nil {
		return err
	}
	var names []string
	for _, r := range records {
		names = append(names, r.ID)
	}
	if output == "" && isTerminal(a.stdout) {
		return errors.New("refusing to write to console, use --output to specify a file")
	}
	return a.writeOutput(output, func(w io.Writer) error { return control.WriteBundle(w, s, names) })
}
