package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

// objectTypes are the types of objects that Docker's `inspect --type` knows.
var objectTypes = []string{"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"}

func newInspectCmd(a *app) *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Return low-level information on containers and images",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case kind == "" && cmd.Flags().Changed("type"):
				return fmt.Errorf(`type is empty: must be one of "%s"`, strings.Join(objectTypes, `", "`))
			case kind != "" && !slices.Contains(objectTypes, kind):
				return fmt.Errorf(`unknown type: %q: must be one of "%s"`, kind, strings.Join(objectTypes, `", "`))
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) { return inspectAny(cmd.Context(), s, name, kind) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	cmd.Flags().StringVar(&kind, "type", "", "Only inspect objects of the given type")
	return cmd
}

// inspectAny describes the container, or else the image, that has the name. kind, unless it is "", is the
// only type that is looked for.
func inspectAny(ctx context.Context, s *store.Store, name, kind string) (any, error) {
	switch kind {
	case "container":
		return inspectContainer(ctx, s, name)
	case "image":
		return inspectImage(ctx, s, name, nil)
	case "":
		c, err := inspectContainer(ctx, s, name)
		if !errors.Is(err, store.ErrNotFound) {
			return c, err
		}
		i, err := inspectImage(ctx, s, name, nil)
		if errors.Is(err, store.ErrNotFound) {
			return nil, &notFoundError{"No such object: " + name, err}
		}
		return i, err
	}
	return nil, &notFoundError{"No such " + kind + ": " + name, store.ErrNotFound}
}

func newContainerInspectCmd(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.Store()
			if err != nil {
				return err
			}
			return inspectAll(a.stdout, format, args, func(name string) (any, error) { return inspectContainer(cmd.Context(), s, name) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

// inspectContainer describes a container with Docker's names.
func inspectContainer(ctx context.Context, s *store.Store, name string) (any, error) {
	c, err := findContainer(ctx, s, name)
	if err != nil {
		return nil, err
	}
	config, err := container.ReadConfig(c)
	if err != nil {
		return nil, err
	}
	m := container.Manager{Store: s}
	state := m.State(c.ID)
	path, args := "", []string{}
	if len(config.Args) > 0 {
		path, args = config.Args[0], config.Args[1:]
	}
	return map[string]any{
		"Id": c.ID, "Name": "/" + c.Name, "Created": c.Created.Format(time.RFC3339Nano), "Image": c.ImageID.String(),
		"Path": path, "Args": args,
		"State": map[string]any{
			"Status": statusWord(state), "Running": state.Running, "ExitCode": state.ExitCode, "Error": state.Error,
			"StartedAt": state.Started.Format(time.RFC3339Nano), "FinishedAt": state.Finished.Format(time.RFC3339Nano),
		},
		"Config": map[string]any{
			"Image": c.Image, "Env": config.Env, "Cmd": config.Args, "WorkingDir": config.Cwd, "User": config.User,
			"Hostname": config.Hostname, "Tty": config.Terminal, "OpenStdin": config.OpenStdin, "Labels": config.Labels,
			"StopSignal": config.StopSignal,
		},
		"HostConfig": map[string]any{"NetworkMode": string(config.Network), "Privileged": config.Privileged},
	}, nil
}

// exitCode is the exit code of a container that ended; one whose process was killed with its
// slipway has the code of that.
func exitCode(s container.State) int {
	if !s.Running && !s.Started.IsZero() && s.Finished.IsZero() {
		return 137
	}
	return s.ExitCode
}

// statusWord is a container's state in one word of Docker's.
func statusWord(s container.State) string {
	switch {
	case s.Running:
		return "running"
	case s.Started.IsZero():
		return "created"
	}
	return "exited"
}
