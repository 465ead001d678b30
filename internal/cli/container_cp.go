package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/view"
)

func newCpCmd(a *app) *cobra.Command {
	var opts container.CopyOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\t" + a.name + " cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				quiet = !isTerminal(a.stdout) // as Docker does, the summary is for people only
			}
			return a.copyFiles(cmd.Context(), args[0], args[1], opts, quiet)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.FollowLink, "follow-link", "L", false, "Always follow symlinks in SRC_PATH")
	f.BoolVarP(&opts.Archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
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
	case src == "":
		return errors.New("source can not be empty")
	case dst == "":
		return errors.New("destination can not be empty")
	case fromName != "" && toName != "":
		return errors.New("copying between containers is not supported")
	case name == "":
		return errors.New("must specify at least one container source")
	case from == "" || to == "":
		return errors.New("the path after the container's name is missing: CONTAINER:PATH")
	}
	m, err := a.containers()
	if err != nil {
		return err
	}
	c, err := view.FindContainer(ctx, m.Store, name)
	if err != nil {
		return err
	}
	var n container.Copied
	switch {
	case toName == "" && to == "-":
		if isTerminal(a.stdout) {
			return errors.New("cowardly refusing to save to a terminal. Redirect standard output, or name a file")
		}
		return m.Export(ctx, c, from, a.stdout, opts)
	case fromName == "" && from == "-":
		return m.Import(ctx, c, a.stdin, to, opts)
	case toName == "":
		if dst, err = filepath.Abs(to); err == nil {
			n, err = m.CopyFrom(ctx, c, from, to, opts)
		}
	default:
		n, err = m.CopyTo(ctx, c, from, to, opts)
	}
	if err != nil || quiet {
		return err
	}
	_, err = fmt.Fprint(a.stderr, copySummary(n, dst))
	return err
}

// copySummary tells what was copied in Docker's words.
func copySummary(n container.Copied, dst string) string {
	if n.Content == n.Transfer {
		return fmt.Sprintf("Successfully copied %s to %s\n", size(n.Content), dst)
	}
	return fmt.Sprintf("Successfully copied %s (transferred %s) to %s\n", size(n.Content), size(n.Transfer), dst)
}
