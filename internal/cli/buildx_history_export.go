package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/serve"
	"github.com/slipway-build/slipway/internal/serve/control"
)

func newHistoryExportCmd(a *app) *cobra.Command {
	var output string
	var every, finalize bool
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] [REF...]",
		Short: "Export build records into Docker Desktop bundle",
		Long:  "Write records of builds that have ended to a file, or to standard output, in the form that Docker Desktop and GitHub's build summaries read. Without REF it is the newest one.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if every && len(args) > 0 {
				return errors.New("cannot specify refs when using --all")
			}
			records, err := a.endedRecords(every, args)
			if err != nil {
				return err
			}
			return a.exportRecords(cmd.Context(), records, output)
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
	_, all, err := a.buildRecords(func(r *history.Record) bool { return !r.Running }, 0)
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

// exportRecords writes records as buildx does, which asks a server for what they consist of.
func (a *app) exportRecords(ctx context.Context, records []history.Record, output string) (err error) {
	s, err := a.Store()
	if err != nil {
		return err
	}
	server := control.New(control.Options{Acquire: func() (*control.Backend, func(), error) {
		return &control.Backend{Store: s}, func() {}, nil
	}})
	var all []*controlapi.BuildHistoryRecord
	for _, r := range records {
		rec, err := server.Named(r.ID)
		if err != nil {
			return err
		}
		if rec == nil {
			return fmt.Errorf("no record found for ref %q: a newer build has the same ref", r.ID)
		}
		all = append(all, rec)
	}
	if output == "" {
		if isTerminal(a.stdout) {
			return errors.New("refusing to write to console, use --output to specify a file")
		}
		return serve.Bundle(ctx, server, all, a.stdout)
	}
	f, err := os.Create(output)
	if err != nil {
		return fmt.Errorf("failed to create output file %q: %w", output, err)
	}
	return errors.Join(serve.Bundle(ctx, server, all, f), f.Close())
}
