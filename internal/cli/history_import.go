package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/serve/control"
)

func newHistoryImportCmd(a *app) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] [FILE...|-]",
		Short: "Import build records",
		Long: "Bring records of builds of other machines, as history export of slipway or of buildx writes them, into the store, and print their IDs, by which all commands of history " +
			"know them. They are marked as imported, are not told to clients of slipway serve, and never are the newest build. Without FILE they are read from standard input.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkBuilder(); err != nil {
				return err
			}
			files = append(files, args...)
			if len(files) == 0 {
				files = []string{"-"}
			}
			for _, file := range files {
				if err := a.importRecords(cmd.Context(), file); err != nil {
					return err
				}
			}
			return nil
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, `Import from a file path, "-" for standard input`)
	return cmd
}

// importRecords brings the records of one file into the store.
func (a *app) importRecords(ctx context.Context, file string) error {
	s, err := a.Store()
	if err != nil {
		return err
	}
	in := a.stdin
	if file == "-" {
		if isTerminal(a.stdin) {
			return errors.New("refusing to read from a terminal: name a file, or redirect standard input")
		}
	} else {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("failed to open file: %w", err)
		}
		defer f.Close()
		in = f
	}
	all, err := control.ReadBundle(ctx, s, in)
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.There {
			fmt.Fprintf(a.stderr, "the record of build %s is there already\n", i.ID)
		}
		if _, err := fmt.Fprintln(a.stdout, i.ID); err != nil {
			return err
		}
	}
	return nil
}
