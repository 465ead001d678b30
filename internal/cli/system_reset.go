package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newSystemResetCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "reset [OPTIONS]",
		Short: "Remove the store with everything in it",
		Long: `Remove the store with everything in it

The store may be one that this slipway cannot open: a damaged one, one of another version, or one of the
other flavor of extended attributes. Files that belong to subordinate IDs, which rm cannot delete, go too.`,
		Args: maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := a.storeRoot()
			if err != nil {
				return err
			}
			if !force {
				yes, err := a.confirm(cmd.Context(), "WARNING! This will remove the store "+root+":\n"+
					"  - all containers\n  - all images\n  - all build cache, and all records and logs of builds\n\nAre you sure you want to continue?")
				if err != nil || !yes {
					return err
				}
			}
			if err := store.Reset(root); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, "Removed store", root)
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}
