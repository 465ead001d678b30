package cli

import (
	"errors"
	"fmt"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
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
			if img.Name, err = tagName(args[1]); err != nil {
				return err
			}
			return s.SetImages(cmd.Context(), img)
		},
	}
}

// tagName is the full form of a name that an image is to have. The errors are those of Docker.
func tagName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("error parsing reference: %q is not a valid repository/tag: %w", name, err)
	}
	if _, digested := ref.(reference.Digested); digested {
		return "", errors.New("refusing to create a tag with a digest reference")
	}
	return store.NormalizeName(name)
}
