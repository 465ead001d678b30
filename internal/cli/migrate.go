package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/migrate"
	"github.com/slipway-build/slipway/internal/migrate/prove"
	"github.com/slipway-build/slipway/internal/terminal"
)

type migrateFlags struct {
	output, progress string
	buildArgs        []string
	verify           bool
}

func newMigrateCmd(a *app) *cobra.Command {
	var opts migrateFlags
	cmd := &cobra.Command{
		Use:   "migrate [OPTIONS] SCRIPT",
		Short: "Turn a script of the builder pattern into one Dockerfile",
		Long: `Turn a script that builds an image, takes files out of a container of it, and builds another image with them, into one Dockerfile with
several stages

The script is read and not run. What it builds is built as it does it, and by the new Dockerfile; the images must have the same files and the
same configuration. The exit code is 1 if they have not, or if something cannot be migrated: the lines are told.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runMigrate(cmd.Context(), args[0], &opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVarP(&opts.output, "output", "o", "", "Write the Dockerfile to a file, which must not be there, instead of standard output")
	f.BoolVar(&opts.verify, "verify", true, "Build both, and compare the images")
	f.StringArrayVar(&opts.buildArgs, "build-arg", nil, `Set build-time variables that the script takes from elsewhere (format: "KEY=VALUE")`)
	f.StringVar(&opts.progress, "progress", "auto", `Set type of progress output ("auto", "none", "plain", "tty")`)
	return cmd
}

func (a *app) runMigrate(ctx context.Context, file string, opts *migrateFlags) error {
	script, err := migrate.Read(file)
	if err != nil {
		return err
	}
	merged, err := script.Merge(migrate.Options{})
	if err != nil {
		return err
	}
	if opts.verify {
		proof, err := a.prove(ctx, script, opts)
		if err != nil {
			return fmt.Errorf("it was not proved that the images are the same (--verify=false writes the Dockerfile all the same): %w", err)
		}
		if !proof.Same() {
			return errors.Join(a.printDifference(ctx, proof), errors.New("the new Dockerfile makes another image than the script"))
		}
		merged = proof.Merged
	}
	if err := a.writeMerged(merged, opts); err != nil {
		return err
	}
	for _, n := range merged.Notes {
		fmt.Fprintf(a.stderr, "Note: %s\n", terminal.Line(n.String()))
	}
	if opts.verify {
		fmt.Fprintf(a.stderr, "Both images have the same files and the same configuration.\n")
	} else {
		fmt.Fprintf(a.stderr, "Nothing was built: that the images are the same is not proved.\n")
	}
	fmt.Fprintf(a.stderr, "Build it: %s\n", terminal.Line(buildCommand(a.name, script, merged, opts)))
	return nil
}

func (a *app) writeMerged(merged *migrate.Merged, opts *migrateFlags) error {
	if opts.output == "" {
		_, err := io.WriteString(a.stdout, merged.Text)
		return err
	}
	f, err := os.OpenFile(opts.output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, merged.Text)
	return errors.Join(err, f.Close())
}

// buildCommand is what builds the new Dockerfile as the script did.
func buildCommand(name string, s *migrate.Script, m *migrate.Merged, opts *migrateFlags) string {
	words := []string{name, "build"}
	for _, n := range s.Runtime().Names {
		words = append(words, "-t", n)
	}
	if opts.output != "" {
		words = append(words, "-f", opts.output)
	}
	if m.Target != "" {
		words = append(words, "--target", m.Target)
	}
	if m.Platform != "" {
		words = append(words, "--platform", m.Platform)
	}
	for _, a := range m.Args {
		words = append(words, "--build-arg", a.Name+"="+a.Value)
	}
	return strings.Join(append(words, filepath.Join(s.Dir, m.Context)), " ")
}

// prove builds both.
func (a *app) prove(ctx context.Context, script *migrate.Script, opts *migrateFlags) (*prove.Proof, error) {
	a.tellIsolation(opts.progress)
	s, err := a.Store()
	if err != nil {
		return nil, err
	}
	display, err := a.display(ctx, opts.progress)
	if err != nil {
		return nil, err
	}
	defer display.Wait()
	b, err := a.Builder(nil)
	if err != nil {
		return nil, err
	}
	p := &prove.Prover{Builder: b, Store: s, Sink: display, Lookup: os.LookupEnv,
		Base: build.Request{BuildArgs: withProxies(keyValues(opts.buildArgs, os.LookupEnv)), Unrecorded: true, Network: "default"}}
	return p.Prove(ctx, script)
}

// printDifference tells how the images differ.
func (a *app) printDifference(ctx context.Context, proof *prove.Proof) error {
	var b strings.Builder
	if t := valueTable(proof.Comparison); len(t.rows) > 0 {
		t.text(&b, 0)
	}
	p := &changePrinter{w: &b, all: true}
	for _, c := range proof.Changes {
		if err := p.add(c); err != nil {
			return err
		}
	}
	_, err := io.WriteString(a.stderr, b.String())
	return err
}
