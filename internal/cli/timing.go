package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/report"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
)

// tellFlags are what is told of a build besides its progress.
type tellFlags struct {
	timing, traceProcesses, traceFiles bool
	summary                            string
}

func (o *tellFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&o.timing, "timing", false, "Show after the build which steps it waited for, and what each step took, read and wrote")
	f.BoolVar(&o.traceProcesses, "trace-processes", false, `Record the processes of each "RUN" for "history trace"`)
	f.BoolVar(&o.traceFiles, "trace-files", false, `Record which files each "RUN" opens, for "advise" and "history inspect --files"`)
	f.StringVar(&o.summary, "summary", "", "Add a summary of the build in Markdown to a file (default: the one that $GITHUB_STEP_SUMMARY names)")
}

// told are the records of builds that have ended, in the order in which they were asked for.
type told struct {
	tellFlags
	records []*build.Record
}

// of has the record of a build told.
func (t *told) of(req *build.Request) {
	if req.Call != "" {
		return
	}
	req.TraceProcesses, req.TraceFiles = t.traceProcesses, t.traceFiles
	i := len(t.records)
	t.records = append(t.records, nil)
	req.Ended = func(r *build.Record) { t.records[i] = r }
}

// tellTimes says where the time of builds went, below the display of them: in a line for each, and with tables.
func (a *app) tellTimes(mode string, t *told) {
	if mode == "quiet" || mode == "none" || mode == "rawjson" {
		return
	}
	for _, r := range t.records {
		if r == nil {
			continue
		}
		of := timing.OfBuild(r)
		line := of.Line()
		if r.Called != "" && len(t.records) > 1 {
			line = r.Called + ": " + line
		}
		fmt.Fprintln(a.stderr, line)
		if t.timing {
			fmt.Fprintln(a.stderr)
			printTiming(a.stderr, of)
		}
	}
}

// summarize adds summaries to a file. That which the environment names is the CI system's: what cannot be written there fails no build.
func (t *told) summarize() error {
	path, asked := t.summary, t.summary != ""
	if !asked {
		path = os.Getenv("GITHUB_STEP_SUMMARY")
	}
	var text strings.Builder
	for _, r := range t.records {
		if r != nil {
			text.WriteString(report.Markdown(timing.OfBuild(r)))
		}
	}
	if path == "" || text.Len() == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err == nil {
		_, err = f.WriteString(text.String())
		err = errors.Join(err, f.Close())
	}
	if err != nil && asked {
		return fmt.Errorf("writing --summary: %w", err)
	}
	return nil
}

// maxTableName is how much of a step's name tables have, in letters.
const maxTableName = 72

// printTiming prints the critical path of a build, and its steps.
func printTiming(w io.Writer, t *timing.Timing) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CRITICAL PATH\tTOOK\tIDLE\tBESIDE")
	for _, seg := range t.Path {
		var beside []string
		for i, b := range seg.Beside {
			if i == maxBesides {
				beside = append(beside, fmt.Sprintf("%d more", len(seg.Beside)-i))
				break
			}
			beside = append(beside, fmt.Sprintf("%s (%s)", terminal.Short(b.Name, maxTableName/2), timing.Seconds(b.Took)))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", terminal.Short(seg.Name, maxTableName), timing.Seconds(seg.Took), someSeconds(seg.Idle), strings.Join(beside, ", "))
	}
	fmt.Fprintln(tw)
	_ = tw.Flush() // w's error is told by what comes after it
	fmt.Fprintln(tw, "STEP\tSTART\tTOOK\tSTATE\tWAITED FOR\tCPU\tMEMORY\tPULLED\tREAD\tWRITTEN\tCOMPRESSED")
	for i := range t.Steps {
		s := &t.Steps[i]
		cpu, memory := "", ""
		if p := s.Process; p != nil && p.Usage != nil {
			cpu, memory = timing.Seconds(p.Usage.User+p.Usage.System), units.HumanSize(float64(p.Usage.Memory))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", terminal.Short(s.Name, maxTableName), timing.Seconds(s.Start), timing.Seconds(s.Took), s.State.Word(),
			terminal.Short(s.After, maxTableName/2), cpu, memory, timing.Size(s.Bytes.Pulled), timing.Size(s.Bytes.Read), timing.Size(s.Bytes.Written+s.Bytes.Packed), timing.Size(s.Bytes.Compressed))
	}
	_ = tw.Flush()
}

// maxBesides is how many steps are named that ran beside a part of the path.
const maxBesides = 3

func someSeconds(d time.Duration) string {
	if d < 5*time.Millisecond {
		return ""
	}
	return timing.Seconds(d)
}
