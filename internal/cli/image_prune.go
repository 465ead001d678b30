package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newImagePruneCmd(a *app) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			parsed, err := parseFilters(filters, "dangling", "label", "label!", "until")
			if err != nil {
				return err
			}
			if len(parsed["dangling"]) == 0 && !all {
				parsed["dangling"] = []string{"true"}
			}
			if slices.Contains(parsed["dangling"], "false") { // is --all, in Docker's API
				delete(parsed, "dangling")
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
			freed, err := a.pruneImages(cmd.Context(), s, parsed)
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

// pruneImages removes the images that pass the filters and that no container uses, and returns the bytes of
// the disk that are free now.
func (a *app) pruneImages(ctx context.Context, s *store.Store, filters map[string][]string) (int64, error) {
	keep, err := imageFilter(ctx, s, filters)
	if err != nil {
		return 0, err
	}
	images, err := s.Images(ctx)
	if err != nil {
		return 0, err
	}
	var remove []store.Image
	for _, img := range images {
		ok, err := keep(img)
		if err != nil {
			return 0, err
		}
		user, _, err := usedBy(ctx, s, img)
		if err != nil {
			return 0, err
		}
		if ok && user == "" {
			remove = append(remove, img)
		}
	}
	names := make([]string, len(remove))
	for i, img := range remove {
		names[i] = img.Name
	}
	if err := s.PruneImages(ctx, names...); err != nil {
		return 0, err
	}
	freed, err := s.Collect(ctx)
	if err != nil {
		return 0, err
	}
	return freed, a.printPruned(remove)
}

// printPruned lists what was removed: names first, and each image once, after its last name.
func (a *app) printPruned(images []store.Image) error {
	if len(images) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout, "Deleted Images:")
	for i, img := range images {
		if img.Tagged() {
			fmt.Fprintln(a.stdout, "untagged:", familiar(img.Name))
		}
		if !slices.ContainsFunc(images[i+1:], func(o store.Image) bool { return o.ID == img.ID }) {
			fmt.Fprintln(a.stdout, "deleted:", img.ID)
		}
	}
	_, err := fmt.Fprintln(a.stdout)
	return err
}
