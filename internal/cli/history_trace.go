package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/processes"
	"github.com/slipway-build/slipway/internal/report"
	"github.com/slipway-build/slipway/internal/timing"
)

// traceFormats are those of `history trace`, by their names.
var traceFormats = map[string]func(io.Writer, *timing.Timing, []processes.Process) error{"chrome": report.Chrome, "otlp": report.OTLP}

func newHistoryTraceCmd(a *app) *cobra.Command {
	var format, output string
	cmd := &cobra.Command{
		Use:   "trace [OPTIONS] [REF]",
		Short: "Write a build as a trace",
		Long: "Write the steps of a build with their times, what they waited for and the work on their layers as a trace: for chrome://tracing and " +
			"ui.perfetto.dev, or in OpenTelemetry's JSON. A build with --trace-processes has the processes of its steps there too.",
		Args: maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			write := traceFormats[format]
			if format == "perfetto" {
				write = report.Chrome
			}
			if write == nil {
				return fmt.Errorf("--format %s: want chrome, perfetto or otlp", format)
			}
			r, err := a.buildRecord(strings.Join(args, ""))
			if err != nil {
				return err
			}
			all, err := r.Processes()
			if err != nil {
				return err
			}
			return a.writeOutput(output, func(w io.Writer) error { return write(w, timing.Of(r), all) })
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "chrome", `Format of the trace ("chrome", which is "perfetto" too, or "otlp")`)
	f.StringVarP(&output, "output", "o", "", "Output file path (default: standard output)")
	return cmd
}

// writeOutput writes to a file, or to standard output. A file that is not written whole is removed.
func (a *app) writeOutput(path string, write func(io.Writer) error) error {
	if path == "" || path == "-" {
		return write(a.stdout)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("failed to create output file: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}
