package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/view"
)

func newContainerPruneCmd(a *app) *cobra.Command {
	var force bool
	var values []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			args, err := view.ParseArgs(values, "until", "label", "label!")
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
			freed, err := a.pruneContainers(cmd.Context(), args)
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

// pruneContainers removes what does not run and passes the filters, lists it, and returns the bytes of the disk
// that are free now.
func (a *app) pruneContainers(ctx context.Context, args view.Args) (int64, error) {
	m, err := a.containers()
	if err != nil {
		return 0, err
	}
	filter, err := view.ParseContainerFilter(args)
	if err != nil {
		return 0, err
	}
	gone, freed, err := view.PruneContainers(ctx, m, filter)
	if len(gone) > 0 {
		fmt.Fprintf(a.stdout, "Deleted Containers:\n%s\n\n", strings.Join(gone, "\n"))
	}
	return freed, err
}
