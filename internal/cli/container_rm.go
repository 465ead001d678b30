package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/view"
)

func newContainerRmCmd(a *app, aliases ...string) *cobra.Command {
	var force, volumes, link bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: aliases,
		Short:   "Remove one or more containers",
		Args:    minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if link {
				return errors.New("--link: containers are not linked to one another here")
			}
			return a.removeContainers(cmd.Context(), args, force, volumes)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Force the removal of a running container")
	f.BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	f.BoolVarP(&link, "link", "l", false, "Remove the specified link")
	f.Lookup("link").Hidden = true
	return cmd
}

// removeContainers removes what it can, prints what was removed, and reports the rest. As with
// Docker, --force makes a container that is not there no error.
func (a *app) removeContainers(ctx context.Context, names []string, force, volumes bool) error {
	m, err := a.containers()
	if err != nil {
		return err
	}
	var all error
	for _, name := range names {
		ref := strings.Trim(name, "/")
		if ref == "" {
			all = errors.Join(all, errors.New("container name cannot be empty"))
			continue
		}
		_, err := view.FindContainer(ctx, m.Store, ref)
		if err == nil {
			err = m.Remove(ctx, ref, force, volumes)
		}
		if missing := (*view.NotFoundError)(nil); force && errors.As(err, &missing) {
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
