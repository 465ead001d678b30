package cli

import (
	"slices"

	"github.com/spf13/cobra"
)

// topCommand is one of the commands below the root.
type topCommand struct {
	name, alias string
	make        func(*app) *cobra.Command
}

// topCommands are those below the root, in the order of their making.
func topCommands() []topCommand {
	return []topCommand{
		{"build", "", newBuildCmd}, {"bake", "f", newBakeCmd}, {executorName, "", newExecutorCmd},
		{"images", "", func(a *app) *cobra.Command { return newImageLsCmd(a, "images") }},
		{"rmi", "", func(a *app) *cobra.Command { return newImageRmCmd(a, "rmi") }},
		{"tag", "", newTagCmd}, {"history", "", newTopHistoryCmd}, {"save", "", newSaveCmd}, {"load", "", newLoadCmd}, {"import", "", newImportCmd},
		{"inspect", "", newInspectCmd}, {"create", "", newCreateCmd}, {"cp", "", newCpCmd}, {"debug", "", newDebugCmd},
		{"rm", "", func(a *app) *cobra.Command { return newContainerRmCmd(a) }},
		{"ps", "", func(a *app) *cobra.Command { return newContainerLsCmd(a, "ps") }},
		{"start", "", newStartCmd}, {"run", "", newRunCmd},
		{"image", "", newImageCmd}, {"container", "", newContainerCmd}, {"buildx", "builder", newBuildxCmd}, {"context", "", newContextCmd}, {"serve", "", newServeCmd},
		{"system", "", func(a *app) *cobra.Command {
			return group("system", "Manage the store", newEventsCmd(a), newSystemCheckCmd(a), newSystemDfCmd(a), newSystemPruneCmd(a), newSystemResetCmd(a))
		}},
		{"cache", "", newCacheCmd}, {"compose", "", newComposeCmd}, {"pull", "", newPullCmd}, {"push", "", newPushCmd}, {"version", "", newVersionCmd}, {"info", "", newInfoCmd}, {"why", "", newWhyCmd},
		{"login", "", newLoginCmd}, {"logout", "", newLogoutCmd}, {"manifest", "", newManifestCmd}, {"imagetools", "", newImagetoolsCmd},
		{"export", "", newExportCmd}, {"commit", "", newCommitCmd}, {"diff", "", newDiffCmd}, {"rename", "", newRenameCmd},
		{"migrate", "", newMigrateCmd}, {"advise", "", newAdviseCmd}, {"kill", "", newKillCmd}, {"stop", "", newStopCmd}, {"wait", "", newWaitCmd},
		{"logs", "", newLogsCmd}, {"attach", "", newAttachCmd}, {"exec", "", newExecCmd}, {"restart", "", newRestartCmd}, {"top", "", newTopCmd}, {"stats", "", newStatsCmd},
		{"events", "", newEventsCmd}, {monitorName, "", newMonitorCmd},
	}
}

func newImageCmd(a *app) *cobra.Command {
	return group("image", "Manage images", newBuildCmd(a), newImageLsCmd(a, "ls"), newImageRmCmd(a, "rm"), newImageInspectCmd(a),
		newImagePruneCmd(a), newHistoryCmd(a), newSaveCmd(a), newLoadCmd(a), newImportCmd(a), newTagCmd(a), newPullCmd(a), newPushCmd(a), newImageSizeCmd(a), newImageDiffCmd(a))
}

func newContainerCmd(a *app) *cobra.Command {
	cmd := group("container", "Manage containers", newCreateCmd(a), newCpCmd(a), newContainerRmCmd(a, "remove"), newContainerLsCmd(a, "ls"),
		newContainerPruneCmd(a), newStartCmd(a), newRunCmd(a), newContainerInspectCmd(a),
		newExportCmd(a), newCommitCmd(a), newDiffCmd(a), newRenameCmd(a), newKillCmd(a), newStopCmd(a), newWaitCmd(a),
		newLogsCmd(a), newAttachCmd(a), newExecCmd(a), newRestartCmd(a), newTopCmd(a), newStatsCmd(a))
	addAbsentInContainer(cmd)
	return cmd
}

// addCommands adds the commands below the root that the arguments may call: one of them is its name. Each command and each below it
// takes 2 kB of memory to make, and there are a hundred and fifty; so all are made where none is called, or where what is called is not among them,
// which a.allCommands says.
func (a *app) addCommands(root *cobra.Command) {
	if !a.allCommands {
		for _, c := range topCommands() {
			if slices.Contains(a.words, c.name) || c.alias != "" && slices.Contains(a.words, c.alias) {
				root.AddCommand(c.make(a))
			}
		}
		if root.HasSubCommands() {
			return
		}
		a.allCommands = true
	}
	for _, c := range topCommands() {
		root.AddCommand(c.make(a))
	}
	addRefused(root, absentCommands)
}
