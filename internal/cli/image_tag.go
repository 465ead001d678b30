package cli

import (
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newTagCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Give an image another name",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			img, err := findImage(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			if img.Name, err = store.NormalizeName(args[1]); err != nil {
				return err
			}
			return s.SetImages(cmd.Context(), img)
		},
	}
}
