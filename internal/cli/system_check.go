package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/store"
)

func newSystemCheckCmd(a *app) *cobra.Command {
	var opt store.CheckOptions
	var format string
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Check everything in the store against what it claims",
		Long: `Check every record, blob, directory of a layer and index of the store against what it claims

Nothing is changed without --repair. Builds and containers may run meanwhile.
The exit code is 0 if nothing is wrong (any more), and 1 otherwise.`,
		Args: maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("--format %q: want json", format)
			}
			s, err := a.Store()
			if err != nil {
				return err
			}
			done := func() {}
			if isTerminal(a.stderr) {
				d := newTransferDisplay(a.stderr, false)
				opt.Progress = func(now, total int64) { d.Layer("store", "Checking", now, max(total, now+1)) }
				done = func() { d.Layer("store", "Checked", 0, 0) }
			}
			r, err := s.CheckAll(cmd.Context(), opt)
			if err != nil {
				return err
			}
			done()
			if format == "json" {
				err = json.NewEncoder(a.stdout).Encode(r)
			} else {
				err = printCheck(a.stdout, r, opt)
			}
			if err == nil && !r.Clean() {
				err = &codeError{code: 1}
			}
			return err
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.BoolVar(&opt.Repair, "repair", false, "Mend what nobody loses anything by: what can be made again, cache, files that nobody knows of")
	f.BoolVar(&opt.Quick, "quick", false, "Look at records and at whether files are there, with their sizes, and read none")
	f.StringVar(&format, "format", "", `Format output ("json")`)
	return cmd
}

// printCheck prints a line for each finding, and what was looked at.
func printCheck(w io.Writer, r *store.CheckReport, opt store.CheckOptions) error {
	var b strings.Builder
	mended := 0
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s", f.Kind, f.Subject)
		if len(f.Of) > 0 {
			fmt.Fprintf(&b, " (%s)", strings.Join(f.Of, ", "))
		}
		fmt.Fprintf(&b, ": %s", f.Problem)
		if len(f.Files) > 0 {
			fmt.Fprintf(&b, " [%s]", strings.Join(f.Files, "; "))
		}
		fmt.Fprintf(&b, ": %s; ", f.Means)
		switch {
		case f.Mended:
			mended++
			fmt.Fprintf(&b, "mended (%s)\n", f.Repair)
		case opt.Repair:
			fmt.Fprintf(&b, "not mended: %s\n", f.Failed)
		default:
			fmt.Fprintf(&b, "--repair: %s\n", f.Repair)
		}
	}
	fmt.Fprintf(&b, "Checked %s, %s, %s, %s, %s, %s; read %s\n", count(r.Blobs, "blob"), count(r.Layers, "layer"), count(r.Results, "result"),
		count(r.Memos, "memo"), count(r.Images, "image"), count(r.Containers, "container"), units.HumanSize(float64(r.Bytes)))
	if fmt.Fprint(&b, count(len(r.Findings), "finding")); opt.Repair {
		fmt.Fprintf(&b, ", %d mended", mended)
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
