package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newImagePruneCmd(a *app) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			args, err := view.ParseArgs(filters, "dangling", "label", "label!", "until")
			if err != nil {
				return err
			}
			if !force {
				warning := "WARNING! This will remove all dangling images."
				if all {
					warning = "WARNING! This will remove all images without at least one container associated to them."
				}
				yes, err := a.confirm(cmd.Context(), warning+"\nAre you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			freed, err := a.pruneImages(cmd.Context(), s, args, all)
			if err != nil {
				return err
			}
			return a.printReclaimed(freed)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all unused images, not just dangling ones")
	f.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	f.StringArrayVar(&filters, "filter", nil, `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

// pruneImages removes what the filters let through of images that no container uses, those without a name or all, lists it and
// returns the bytes of the disk that are free now.
func (a *app) pruneImages(ctx context.Context, s *store.Store, args view.Args, all bool) (int64, error) {
	filter, err := view.ParseImageFilter(args)
	if err != nil {
		return 0, err
	}
	switch {
	case slices.Contains(filter.Dangling, false): // is --all, in Docker's API
		filter.Dangling = nil
	case len(filter.Dangling) == 0 && !all:
		filter.Dangling = []bool{true}
	}
	gone, freed, err := view.PruneImages(ctx, s, filter, s.Collect)
	if err != nil || len(gone) == 0 {
		return freed, err
	}
	fmt.Fprintln(a.stdout, "Deleted Images:")
	for _, r := range gone {
		if r.Untagged != "" {
			fmt.Fprintln(a.stdout, "untagged:", r.Untagged)
		} else {
			fmt.Fprintln(a.stdout, "deleted:", r.ID)
		}
	}
	_, err = fmt.Fprintln(a.stdout)
	return freed, err
}
