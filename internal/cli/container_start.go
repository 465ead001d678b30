package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/view"
)

func newStartCmd(a *app) *cobra.Command {
	var attach, interactive bool
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !attach && !interactive {
				return a.startDetached(cmd.Context(), args)
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return a.startOne(cmd.Context(), args[0], interactive)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	f.BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	f.String("detach-keys", "", "Override the key sequence for detaching a container")
	f.Lookup("detach-keys").Hidden = true
	return cmd
}

// startOne runs a container in the foreground until it ends, with its exit code. To one that runs already it attaches.
func (a *app) startOne(ctx context.Context, name string, stdin bool) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	c, err := view.FindContainer(ctx, m.Store, name)
	if err != nil {
		return err
	}
	if m.State(c.ID).Running {
		return a.attach(ctx, m, c, stdin, true, "")
	}
	return a.runContainer(ctx, c, stdin)
}

// notStarted is the error of containers that could not be started.
func notStarted(names []string) error {
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("failed to start containers: %s", strings.Join(names, ", "))
}
