package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
)

func newCpCmd(a *app) *cobra.Command {
	var opts container.CopyOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files out of a container, or into one",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.copyFiles(cmd.Context(), args[0], args[1], opts, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.FollowLink, "follow-link", "L", false, "Copy what a symbolic link at SRC_PATH leads to")
	f.BoolVarP(&opts.Archive, "archive", "a", false, "Keep owners")
	f.BoolVarP(&quiet, "quiet", "q", false, "Print nothing")
	return cmd
}

// splitCopyArg splits CONTAINER:PATH. A path of the host has no container: it is absolute, starts
// with a dot, or has no colon.
func splitCopyArg(arg string) (name, path string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	name, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(name, ".") {
		return "", arg
	}
	return name, path
}

func (a *app) copyFiles(ctx context.Context, src, dst string, opts container.CopyOptions, quiet bool) error {
	fromName, from := splitCopyArg(src)
	toName, to := splitCopyArg(dst)
	name := fromName + toName
	switch {
	case fromName != "" && toName != "":
		return errors.New("copying between containers is not supported: copy to the host first")
	case name == "":
		return errors.New("one of the two must be a path in a container, CONTAINER:PATH")
	case from == "" || to == "":
		return errors.New("the path after the container's name is missing: CONTAINER:PATH")
	}
	m, err := a.containers()
	if err != nil {
		return err
	}
	c, err := findContainer(ctx, m.Store, name)
	if err != nil {
		return err
	}
	var n int64
	switch {
	case toName == "" && to == "-":
		if isTerminal(a.stdout) {
			return errors.New("the tar would go to the terminal: redirect standard output, or name a file")
		}
		return m.Export(ctx, c, from, a.stdout, opts)
	case fromName == "" && from == "-":
		return m.Import(ctx, c, a.stdin, to, opts)
	case toName == "":
		n, err = m.CopyFrom(ctx, c, from, to, opts)
	default:
		n, err = m.CopyTo(ctx, c, from, to, opts)
	}
	if err != nil {
		return err
	}
	// As Docker does, the summary is for people only.
	if !quiet && isTerminal(a.stderr) {
		fmt.Fprintf(a.stderr, "Successfully copied %s to %s\n", size(n), dst)
	}
	return nil
}
