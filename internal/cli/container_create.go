package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newCreateCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a container",
		Args:  minArgs(1),
	}
	opts := containerFlagsOf(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.createContainer(cmd, opts, args)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stdout, c.ID)
		return err
	}
	return cmd
}

// createContainer finds or pulls the image that args name first, and creates a container of it.
func (a *app) createContainer(cmd *cobra.Command, flags *containerFlags, args []string) (store.Container, error) {
	var c store.Container
	if err := checkAbsent(cmd); err != nil {
		return c, err
	}
	opts, err := flags.options(cmd, args[1:])
	if err != nil {
		return c, err
	}
	img, err := a.openImage(cmd.Context(), args[0], flags.platform, flags.pull)
	if err != nil {
		return c, err
	}
	if err := makeBindSources(opts.Mounts); err != nil {
		return c, err
	}
	m, err := a.containers()
	if err != nil {
		return c, err
	}
	return m.Create(cmd.Context(), flags.name, img, opts)
}
