package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/terminal"
)

func newWhyCmd(a *app) *cobra.Command {
	var ref, against, format string
	cmd := &cobra.Command{
		Use:   "why [OPTIONS] [STEP]",
		Short: "Say why steps of a build ran again",
		Long: `Say why steps of a build ran again

Without a step all that ran are listed, each with its reason. STEP is the number of one in that list, a line of
the Dockerfile (":12"), a place ("builder 2/4") or a part of the instruction ("go build"): all that is known of it
is told, the files that changed by their names.

A build is compared with the one before it of the same Dockerfile, as it was when it was carried out. Builds are
named as in "buildx history": by ID, or "^1" for the second newest. With --against, steps that were cached
are compared, too.`,
		Args: maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("--format %q: want json", format)
			}
			e, err := a.explanation(ref, against)
			if err != nil {
				return err
			}
			steps := e.Steps
			if len(args) > 0 {
				if steps, err = e.Find(args[0]); err != nil {
					return err
				}
			}
			switch {
			case format == "json":
				e.Steps = steps
				enc := json.NewEncoder(a.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(e)
			case len(args) > 0:
				return a.printWhy(e, steps)
			}
			return a.printWhys(e, against != "")
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&ref, "build", "", "The build (default the last one)")
	f.StringVar(&against, "against", "", "The build to compare it with (default the one before it)")
	f.StringVar(&format, "format", "", `Format output ("json")`)
	return cmd
}

// explanation explains the build that ref names, against another one if that is not "".
func (a *app) explanation(ref, against string) (*history.Explanation, error) {
	r, err := a.buildRecord(ref)
	if err != nil {
		return nil, err
	}
	var other *history.Record
	switch {
	case against != "":
		if other, err = a.buildRecord(against); err != nil {
			return nil, err
		}
	case r.Earlier != "":
		if other, err = a.buildRecord(r.Earlier); err != nil {
			other = nil // it is gone: what was found out then stands in the record
		}
	}
	return history.Explain(r, other)
}

// printWhys lists what ran, or with all what differs.
func (a *app) printWhys(e *history.Explanation, all bool) error {
	chosen := slices.DeleteFunc(slices.Clone(e.Steps), func(s history.Step) bool {
		ran := s.State == history.Ran || s.State == history.Broken
		return !ran && (!all || len(s.Reasons) == 0)
	})
	what := "build " + e.Build
	if e.Against != "" {
		what += " against " + e.Against
	}
	fmt.Fprintln(a.stdout, what)
	if len(chosen) == 0 {
		_, err := fmt.Fprintf(a.stdout, "none of %d steps ran\n", len(e.Steps))
		return err
	}
	tw := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "#\tSTEP\tSTATE\tREASON")
	for _, s := range chosen {
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", s.Number, shortName(s.Name), s.State, terminal.Line(reasonOf(&s)))
	}
	return tw.Flush()
}

// reasonOf is the reason of a step in one line.
func reasonOf(s *history.Step) string {
	if text := s.Text(); text != "" {
		return text
	}
	return "nothing changed"
}

// maxStepName is how many letters of the name of a step a table has.
const maxStepName = 60

func shortName(name string) string { return terminal.Short(terminal.Line(name), maxStepName) }

// printWhy tells all that is known of steps.
func (a *app) printWhy(e *history.Explanation, steps []history.Step) error {
	var b strings.Builder
	for i, s := range steps {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "#%d %s\n", s.Number, terminal.Line(s.Name))
		if s.Line > 0 {
			fmt.Fprintf(&b, "line:     %d\n", s.Line)
		}
		fmt.Fprintf(&b, "state:    %s\n", s.State)
		if e.Against != "" {
			fmt.Fprintf(&b, "against:  build %s\n", e.Against)
		}
		switch {
		case s.Follows != "":
			fmt.Fprintf(&b, "follows:  %s\n", terminal.Line(s.Follows))
		case len(s.Reasons) == 0:
			fmt.Fprintf(&b, "reason:   %s\n", reasonOf(&s))
		}
		writeReasons(&b, s.Reasons, "")
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

// writeReasons writes reasons, with all that stands behind them.
func writeReasons(b *strings.Builder, all []reasons.Reason, indent string) {
	for _, r := range all {
		fmt.Fprintf(b, "%sreason:   %s\n", indent, terminal.Line(r.Text))
		if d := r.Files; d != nil {
			for _, f := range d.Names {
				fmt.Fprintf(b, "%s          %-10s %s\n", indent, f.Change, terminal.Line(f.Path))
			}
			if n := d.Changed + d.Added + d.Removed - len(d.Names); n > 0 {
				fmt.Fprintf(b, "%s          and %d more\n", indent, n)
			}
		}
		writeReasons(b, r.Because, indent+"  ")
	}
}
