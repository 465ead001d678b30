package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// absentCommands are commands of Docker's that are not there, with the reason and what to do instead.
var absentCommands = map[string]string{
	"attach":  "a container's streams belong to the process that runs it",
	"events":  "there is no daemon that would tell of events",
	"exec":    "it is not there yet: nsenter -a -t $(slipway inspect -f '{{.State.Pid}}' CONTAINER) enters a running container",
	"logs":    "there is no daemon that keeps a container's output: it goes to where that of run or start goes",
	"network": notYet + ": " + ownNetwork + ", the host's, or none",
	"pause":   notYet + ": kill -s STOP stops a container's first process",
	"port":    noPorts,
	"restart": "a container runs in the foreground: use stop, and start again",
	"search":  notYet,
	"stats":   notYet,
	"top":     notYet + ": ps on the host shows the processes of containers",
	"unpause": notYet + ": kill -s CONT continues a container's first process",
	"update":  notYet + ": create another container",
	"volume":  "there are no named volumes: use -v HOST:CONTAINER",
}

// inContainerGroup are those that are below `container` as well.
var inContainerGroup = []string{"attach", "exec", "logs", "pause", "port", "restart", "stats", "top", "unpause", "update"}

// addAbsentInContainer adds those that are below container.
func addAbsentInContainer(container *cobra.Command) {
	below := map[string]string{}
	for _, name := range inContainerGroup {
		below[name] = absentCommands[name]
	}
	addRefused(container, below)
}

// addRefused adds hidden commands below parent that refuse with a reason.
func addRefused(parent *cobra.Command, reasons map[string]string) {
	for name, reason := range reasons {
		parent.AddCommand(&cobra.Command{
			Use: name, Short: "It is not there", Hidden: true, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, _ []string) error { return fmt.Errorf("%s: %s", cmd.CommandPath(), reason) },
		})
	}
}
