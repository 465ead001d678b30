package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/isolation"
)

// outside are the commands, with those below them, that need nothing of what a user namespace gives: they open no store, or only look into its
// records. The others unpack, pack, measure, delete or run what belongs to several users.
var outside = []string{
	"login", "logout", "help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd,
	"context", "manifest", "imagetools", "buildx imagetools",
	"buildx create", "buildx use", "buildx ls", "buildx inspect", "buildx rm", "buildx stop", "buildx install", "buildx uninstall",
	"images", "image ls", "image inspect", "history", "image history", "tag", "image tag", "info",
}

// staysOutside reports whether a command is one of these.
func staysOutside(cmd *cobra.Command) bool {
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return slices.ContainsFunc(outside, func(name string) bool { return path == name || strings.HasPrefix(path, name+" ") })
}

// isolate chooses how steps are run, and has this process enter a user namespace if that is it, in which it begins anew. What it does not get
// is no error before something is to be run.
func (a *app) isolate(cmd *cobra.Command) error {
	wanted, err := isolation.ParseMode(a.isolation)
	if err != nil {
		return err
	}
	entry := isolation.Entered()
	if entry != nil && entry.Inside {
		a.mode = isolation.Chosen(entry)
		return entry.Err
	}
	a.mode = isolation.Choose(isolation.Find(wanted), wanted)
	if !a.mode.Enters() || staysOutside(cmd) {
		return nil
	}
	if err := context.Cause(cmd.Context()); err != nil {
		return err
	}
	return isolation.Enter(a.mode)
}
