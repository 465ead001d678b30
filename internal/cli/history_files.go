package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/history"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/timing"
)

// printTraced prints how many files the steps of a build have opened, if they were traced.
func printTraced(w io.Writer, t *timing.Timing) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	first := true
	for i := range t.Steps {
		p := t.Steps[i].Process
		if p == nil || p.Files == nil {
			continue
		}
		if first {
			fmt.Fprint(w, "\n")
			fmt.Fprintln(tw, "TRACED STEP\tFILES\tPROGRAMS\tDIRECTORIES\tNOT TOLD")
			first = false
		}
		lost := ""
		switch f := p.Files; {
		case f.Cut:
			lost = "more"
		case f.Lost > 0:
			lost = fmt.Sprint(f.Lost)
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\n", terminal.Short(t.Steps[i].Name, maxTableName), p.Files.Files, p.Files.Executed, p.Files.Listed, lost)
	}
	_ = tw.Flush() // w's error is told by what comes after it
}

// openedWord is how lists call what was done with a path.
func openedWord(k filetrace.Kind) string {
	switch k {
	case filetrace.Executed:
		return "execute"
	case filetrace.Listed:
		return "list"
	}
	return "open"
}

// openedStep is a step with the files that it opened, as JSON. The paths come after it, one each.
type openedStep struct {
	Step  string `json:"step"`
	Build string `json:"build"` // that ran it
	filetrace.Summary
}

type openedPath struct {
	What string `json:"what"`
	Path string `json:"path"`
}

// printOpened prints what the steps of a build have opened, a path in a line. A step that was cached is told as it was in the build that ran it.
func (a *app) printOpened(r *history.Record, format string) error {
	if format != "pretty" && format != "json" {
		return fmt.Errorf("--format %q: with --files want pretty or json", format)
	}
	g, err := r.Graph()
	if err != nil {
		return fmt.Errorf("build %s: %w", r.ID, history.ErrNoGraph)
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	all, err := build.Records(s)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.stdout)
	enc, found := json.NewEncoder(out), false
	for _, v := range g.Vertices {
		of, sum := build.Traced(all, engine.Key(v.Key), r.Imported)
		if v.Key == "" || of == nil {
			continue
		}
		found = true
		each := func(k filetrace.Kind, path string) error {
			_, err := fmt.Fprintf(out, "  %-8s %s\n", openedWord(k), terminal.Line(path))
			return err
		}
		if format == "json" {
			err = enc.Encode(openedStep{v.Name, of.ID, *sum})
			each = func(k filetrace.Kind, path string) error { return enc.Encode(openedPath{openedWord(k), path}) }
		} else {
			_, err = fmt.Fprintln(out, terminal.Line(v.Name))
		}
		if err = errors.Join(err, of.OpenedFiles(engine.Key(v.Key), each)); errors.Is(err, os.ErrNotExist) {
			continue // it was pruned meanwhile
		}
		if err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("build %s: its files were not traced: build with --trace-files", r.ID)
	}
	return out.Flush()
}
