package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
)

type containerLsFlags struct {
	all, quiet, noTrunc bool
	format              string
	filters             []string
}

func newContainerLsCmd(a *app, use string) *cobra.Command {
	var opts containerLsFlags
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS]",
		Short: "List containers",
		Args:  maxArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.listContainers(cmd.Context(), &opts) },
	}
	if use == "ls" {
		cmd.Aliases = []string{"ps", "list"}
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.all, "all", "a", false, "Show all containers, not only running ones")
	f.BoolVarP(&opts.quiet, "quiet", "q", false, "Only show container IDs")
	f.BoolVar(&opts.noTrunc, "no-trunc", false, "Do not shorten anything")
	f.StringVar(&opts.format, "format", "", `"table", "json", or a Go template, such as "{{.Names}}"`)
	f.StringArrayVarP(&opts.filters, "filter", "f", nil, `Only show some: "name=PART", "status=WORD"`)
	return cmd
}

// containerFormat and containerHeaders are what `ps` shows.
const containerFormat = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"

var containerHeaders = headers{
	"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS",
	"Ports": "PORTS", "Names": "NAMES", "CreatedAt": "CREATED AT", "State": "STATE",
}

func (a *app) listContainers(ctx context.Context, opts *containerLsFlags) error {
	m, err := a.containers()
	if err != nil {
		return err
	}
	all, err := m.Store.Containers(ctx)
	if err != nil {
		return err
	}
	var rows []any
	for _, c := range all {
		state := m.State(c.ID)
		keep, err := keepContainer(c, state, opts)
		if err != nil {
			return err
		}
		if keep {
			rows = append(rows, containerRow(c, state, opts.noTrunc))
		}
	}
	return printList(a.stdout, listFormat(opts.format, opts.quiet, containerFormat), containerHeaders, rows)
}

// keepContainer applies --all and --filter.
func keepContainer(c store.Container, state container.State, opts *containerLsFlags) (bool, error) {
	all := opts.all
	for _, f := range opts.filters {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "name":
			if !strings.Contains(c.Name, strings.Trim(value, "^/$")) {
				return false, nil
			}
		case "status":
			all = true
			if statusWord(state) != value {
				return false, nil
			}
		case "id":
			if !strings.HasPrefix(c.ID, value) {
				return false, nil
			}
		default:
			return false, fmt.Errorf("--filter %s: only id, name and status are there", f)
		}
	}
	return all || state.Running, nil
}

func containerRow(c store.Container, state container.State, noTrunc bool) map[string]string {
	id, command := c.ID, ""
	if config, err := container.ReadConfig(c); err == nil {
		command = strings.Join(config.Args, " ")
	}
	if !noTrunc {
		id = shortID(id)
		command = ellipsis(command, 20)
	}
	return map[string]string{
		"ID": id, "Image": c.Image, "Command": strconv.Quote(command), "RunningFor": ago(c.Created), "Status": statusText(state),
		"Ports": "", "Names": c.Name, "State": statusWord(state), "CreatedAt": timestamp(c.Created),
	}
}

// statusText is a container's state as `ps` shows it.
func statusText(s container.State) string {
	switch statusWord(s) {
	case "running":
		return "Up " + units.HumanDuration(time.Since(s.Started))
	case "created":
		return "Created"
	}
	if s.Finished.IsZero() { // the process that ran it was killed
		return "Exited (137)"
	}
	return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.Finished))
}
