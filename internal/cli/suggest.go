package cli

import (
	"errors"
	"strings"

	"github.com/moby/buildkit/util/suggest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unknownCommand is the error for a name that is none of group's commands. It names those that may be meant.
func unknownCommand(group *cobra.Command, name string) error {
	group.SuggestionsMinimumDistance = 2
	if len(name) < 4 { // of a short name two letters say little
		group.SuggestionsMinimumDistance = 1
	}
	meant := ""
	if similar := group.SuggestionsFor(name); len(similar) > 0 {
		meant = " (did you mean " + strings.Join(similar, " or ") + "?)"
	}
	return usageErrorf(group, 1, "unknown command: %s %s%s", group.CommandPath(), name, meant)
}

// wrongFlag is the error for flags that cmd cannot read. It names the one that may be meant.
func wrongFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 2 {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Deprecated == "" {
				names = append(names, "--"+f.Name)
			}
		})
		err = suggest.WrapError(err, "--"+unknown.GetSpecifiedName(), names, true)
	}
	return usageErrorf(cmd, 125, "%s", err)
}
