package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// absentCommands are commands of Docker's that are not there, with the reason and what to do instead.
var absentCommands = map[string]string{
	"network": "networks by name are for Docker's clients of slipway serve: " + ownNetwork + ", the host's, or none",
	"pause":   unsupported + ": kill -s STOP stops a container's first process",
	"port":    noPorts,
	"search":  unsupported,
	"unpause": unsupported + ": kill -s CONT continues a container's first process",
	"update":  unsupported + ": create another container",
	"volume":  noVolumes + ": use -v HOST:CONTAINER",
}

// inContainerGroup are those that are below `container` as well.
var inContainerGroup = []string{"pause", "port", "unpause", "update"}

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
