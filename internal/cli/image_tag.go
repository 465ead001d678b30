package cli

import (
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/view"
)

func newTagCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			img, err := view.UseImage(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			if img.Name, err = view.TagName(args[1], ""); err != nil {
				return err
			}
			return s.SetImages(cmd.Context(), img)
		},
	}
}
