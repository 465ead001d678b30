package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newInfoCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Display system-wide information",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			images, err := s.Images(cmd.Context())
			if err != nil {
				return err
			}
			containers, err := s.Containers(cmd.Context())
			if err != nil {
				return err
			}
			runtime := "built in"
			if a.runtime != "" {
				runtime = a.runtime
			}
			var all error
			for _, line := range []struct {
				name  string
				value any
			}{
				{"Version", version()}, {"Store", s.Root()}, {"Images", len(images)}, {"Containers", len(containers)},
				{"Runtime", runtime}, {"Registry configuration", a.certsDirs()},
			} {
				_, err := fmt.Fprintf(a.stdout, "%s: %v\n", line.name, line.value)
				all = errors.Join(all, err)
			}
			return all
		},
	}
}
