package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

func newExportCmd(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Export a container's filesystem as a tar archive",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && isTerminal(a.stdout) {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			m, c, err := a.oneContainer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return m.ExportAll(cmd.Context(), c, w) }
			if output == "" {
				return write(a.stdout)
			}
			if err := m.Store.Again(cmd.Context(), output, func() error { return writeWhole(output, write) }); err != nil {
				return fmt.Errorf("failed to export container: %w", err)
			}
			return nil
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

// oneContainer finds the container of a command that takes one.
func (a *app) oneContainer(ctx context.Context, name string) (*container.Manager, store.Container, error) {
	m, err := a.containers()
	if err != nil {
		return nil, store.Container{}, err
	}
	c, err := view.FindContainer(ctx, m.Store, name)
	return m, c, err
}

// writeWhole writes a file that is there when all of it is.
func writeWhole(name string, write func(io.Writer) error) error {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		return fmt.Errorf("invalid output path: %q must be a regular file", name)
	}
	return writeOutput(name, write)
}

func newCommitCmd(a *app) *cobra.Command {
	var opts container.CommitOptions
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Create a new image from a container's changes",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.oneContainer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(args) > 1 {
				if opts.Name, err = importName(args[1]); err != nil {
					return err
				}
			}
			img, err := m.Commit(cmd.Context(), c, opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, img.ID)
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&opts.Comment, "message", "m", "", "Commit message")
	f.StringVarP(&opts.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	f.StringArrayVarP(&opts.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.BoolP("pause", "p", true, "")
	f.Bool("no-pause", false, "")
	f.Lookup("pause").Hidden, f.Lookup("no-pause").Hidden = true, true // nothing is paused
	return cmd
}

func newDiffCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.oneContainer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			changes, err := m.Diff(cmd.Context(), c)
			if err != nil {
				return err
			}
			for _, ch := range changes {
				if _, err := fmt.Fprintln(a.stdout, ch.Kind, ch.Path); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newRenameCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, c, err := a.oneContainer(cmd.Context(), args[0])
			if err == nil {
				err = m.Rename(cmd.Context(), c, args[1])
			}
			if err != nil {
				return fmt.Errorf("failed to rename container: %w", err)
			}
			return nil
		},
	}
}
