package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// monitorName is the command that is the process of a container.
const monitorName = "container-monitor"

// newMonitorCmd is the process that runs a container which nobody has in the foreground. Slipway starts it itself.
func newMonitorCmd(a *app) *cobra.Command {
	return hidden(&cobra.Command{
		Use:   monitorName + " ID",
		Short: "Run a container for others",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ready := os.NewFile(3, "ready")
			if _, err := ready.Stat(); err != nil {
				return fmt.Errorf("%s is started by slipway itself", monitorName)
			}
			m, err := a.containers()
			if err == nil {
				m.Runner, err = a.Runner()
			}
			if err != nil { // whoever has started it hears of it there
				fmt.Fprintf(ready, "error: %v", err)
				return errors.Join(err, ready.Close())
			}
			return m.Monitor(cmd.Context(), args[0], ready)
		},
	})
}

// monitorCommand is the command of the process that runs a container, with what this one was told of the store and of how steps run.
func (a *app) monitorCommand(id string) *exec.Cmd {
	args := []string{"slipway"}
	for _, flag := range []struct{ name, value string }{
		{"--runtime", absolute(a.runtime)}, {"--worker-net", a.workerNet}, {"--isolation", a.isolation}, {"--config-file", absolute(a.configFile)},
	} {
		if flag.value != "" {
			args = append(args, flag.name+"="+flag.value)
		}
	}
	root := ""
	if a.openStore != nil {
		root = a.openStore.Root()
	} else if dir, err := a.storeRoot(); err == nil {
		root = dir
	}
	args = append(args, "--root="+absolute(root), monitorName, id)
	return &exec.Cmd{Path: "/proc/self/exe", Args: args, Dir: "/", Env: slices.DeleteFunc(os.Environ(), ownVariable)}
}

// ownVariable reports whether a variable, NAME=VALUE, is this process's alone: what a service manager has said to it, and credentials.
func ownVariable(text string) bool {
	name, _, _ := strings.Cut(text, "=")
	return slices.Contains([]string{"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"}, name) ||
		strings.HasPrefix(name, "AWS_")
}

// absolute is a path that holds in every directory; "" stays what it is, and so does the name of a program.
func absolute(path string) string {
	if path == "" || filepath.Base(path) == path {
		return path
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// runDetached starts a container and prints its ID.
func (a *app) runDetached(ctx context.Context, c store.Container) error {
	m, err := a.containers()
	if err != nil {
		return failed(err)
	}
	if err := m.Start(ctx, c); err != nil {
		return exitOf(err)
	}
	_, err = fmt.Fprintln(a.stdout, c.ID)
	return err
}

// startDetached starts containers, and prints the name of each, as it was written. Those that run already are left alone.
func (a *app) startDetached(ctx context.Context, names []string) error {
	m, err := a.containers()
	if err != nil {
		return err
	}
	var bad []string
	for _, name := range names {
		c, err := view.FindContainer(ctx, m.Store, name)
		if err == nil && len(names) == 1 && container.StepOf(c) != nil {
			return a.runContainer(ctx, c, false) // the step's command once more
		}
		if err == nil {
			err = m.Start(ctx, c)
		}
		if err != nil && !errors.Is(err, container.ErrRunning) {
			fmt.Fprintln(a.stderr, err)
			bad = append(bad, name)
			continue
		}
		if _, err := fmt.Fprintln(a.stdout, name); err != nil {
			return err
		}
	}
	return notStarted(bad)
}

func newRestartCmd(a *app) *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachContainer(cmd.Context(), args, func(m *container.Manager, c store.Container) (string, error) {
				sig, timeout, err := o.of(cmd, c)
				if err != nil {
					return "", err
				}
				return "", m.Restart(cmd.Context(), c, sig, timeout)
			})
		},
	}
	if a.calls(cmd) {
		o.add(cmd.Flags())
	}
	return cmd
}
