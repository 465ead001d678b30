package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newImageRmCmd(a *app, use string) *cobra.Command {
	var force, noPrune bool
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove one or more images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return a.removeImages(cmd.Context(), s, args, force)
		},
	}
	if use == "rm" {
		cmd.Aliases = []string{"rmi", "remove"}
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&noPrune, "no-prune", false, "Do not delete untagged parents (there are none)")
	return cmd
}

// removeImages removes images by their names or IDs, and gives back the space of those that are gone.
func (a *app) removeImages(ctx context.Context, s *store.Store, args []string, force bool) error {
	var all error
	deleted := false
	for _, name := range args {
		gone, err := a.removeImage(ctx, s, name, force)
		if force && errors.Is(err, store.ErrNotFound) {
			fmt.Fprintf(a.stderr, "No such image: %s\n", name)
			err = nil
		}
		deleted = deleted || gone
		all = errors.Join(all, err)
	}
	if deleted {
		_, err := s.Collect(ctx)
		all = errors.Join(all, err)
	}
	return all
}

// removeImage removes one name of an image, or an image by its ID, and prints what Docker prints. It
// reports whether the image is gone.
func (a *app) removeImage(ctx context.Context, s *store.Store, arg string, force bool) (deleted bool, err error) {
	gone, err := view.RemoveImage(ctx, s, arg, force)
	for _, r := range gone {
		if r.Untagged != "" {
			fmt.Fprintf(a.stdout, "Untagged: %s\n", r.Untagged)
			continue
		}
		deleted = true
		_, err = fmt.Fprintf(a.stdout, "Deleted: %s\n", r.ID)
	}
	return deleted, err
}
