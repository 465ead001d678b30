package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

func newPullCmd(a *app) *cobra.Command {
	var platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Bring an image from its registry into the store",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			if _, err := a.pullImage(cmd.Context(), s, args[0], platform, imagesource.ResolvePull); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, familiar(args[0]))
			return err
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "Platform of the image, such as linux/amd64")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Accepted for Docker's sake")
	return cmd
}
