package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
)

func newContainerPruneCmd(a *app) *cobra.Command {
	var force bool
	var values []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filters, err := parseFilters(values, "until", "label", "label!")
			if err != nil {
				return err
			}
			if !force {
				const warning = "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?"
				yes, err := a.confirm(cmd.Context(), warning)
				if err != nil {
					return err
				}
				if !yes {
					return errors.New("container prune has been cancelled")
				}
			}
			freed, err := a.pruneContainers(cmd.Context(), filters)
			return errors.Join(err, a.printReclaimed(freed))
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.StringArrayVar(&values, "filter", nil, `Provide filter values (e.g. "until=<timestamp>", "label=<key>[=<value>]", "label!=<key>")`)
	return cmd
}

// printReclaimed ends the output of a prune.
func (a *app) printReclaimed(bytes int64) error {
	_, err := fmt.Fprintln(a.stdout, "Total reclaimed space:", units.HumanSize(float64(bytes)))
	return err
}

// pruneContainers removes what does not run and passes the filters, and returns the bytes of the disk
// that are free now.
func (a *app) pruneContainers(ctx context.Context, filters map[string][]string) (freed int64, err error) {
	m, err := a.containers()
	if err != nil {
		return 0, err
	}
	keep, err := containerFilter(ctx, m, filters)
	if err != nil {
		return 0, err
	}
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return 0, err
	}
	var errs error
	header := "Deleted Containers:\n"
	for _, c := range all {
		state := m.State(c.ID)
		if state.Running || !keep(c, state) {
			continue
		}
		n, err := m.Size(c)
		if err == nil {
			err = m.Remove(ctx, c.ID, false)
		}
		if errors.Is(err, container.ErrRunning) {
			continue // since we looked
		}
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		freed += n
		fmt.Fprintf(a.stdout, "%s%s\n", header, c.ID)
		header = ""
	}
	if header == "" {
		fmt.Fprintln(a.stdout)
	}
	return freed, errs
}
