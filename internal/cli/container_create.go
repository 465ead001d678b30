package cli

import (
	"context"
	"errors"
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

func newContainerRmCmd(a *app) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.removeContainers(cmd.Context(), args, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "End a running container first")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes too (they are part of the container)")
	return cmd
}

// removeContainers removes what it can, prints what was removed, and reports the rest. As with
// Docker, --force makes a container that is not there no error.
func (a *app) removeContainers(ctx context.Context, names []string, force bool) error {
	m, err := a.containers()
	if err != nil {
		return err
	}
	var all error
	for _, name := range names {
		_, err := findContainer(ctx, m.Store, name)
		if err == nil {
			err = m.Remove(ctx, name, force)
		}
		if missing := (*notFoundError)(nil); force && errors.As(err, &missing) {
			fmt.Fprintf(a.stderr, "%v\n", err)
			continue
		}
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		if _, err := fmt.Fprintln(a.stdout, name); err != nil {
			return err
		}
	}
	return all
}
