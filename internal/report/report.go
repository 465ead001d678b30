// Package report writes down what is known of builds as files that others read: summaries in Markdown for CI systems, and traces in the
// formats of Chrome and Perfetto ([Chrome]) and of OpenTelemetry ([OTLP]).
//
// Names, reasons and errors come from Dockerfiles, registries and processes: they are text wherever they stand, and never markup.
package report

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/slipway-build/slipway/internal/timing"
)

// maxRows is how many steps a table of a summary has. CI systems cut a page that is too long.
const maxRows = 200

// Markdown is a summary of a build: what took how long, what was cached and why not, what came of it.
func Markdown(t *timing.Timing) string {
	var w strings.Builder
	fmt.Fprintf(&w, "### %s: %s\n\n", MarkdownText(t.Name), t.Status)
	fmt.Fprintf(&w, "%s\n\n", MarkdownText(t.Line()))
	if t.Error != "" {
		fmt.Fprintf(&w, "**Error:** %s\n\n", MarkdownText(t.Error))
	}
	if t.ImageID != "" {
		fmt.Fprintf(&w, "| Image | ID | Size |\n|---|---|---:|\n| %s | %s | %s |\n\n", MarkdownText(strings.Join(t.Names, ", ")), MarkdownText(t.ImageID), timing.Size(t.ImageSize))
	}
	var ran, cached []*timing.Step
	for i := range t.Steps {
		switch s := &t.Steps[i]; {
		case s.State == timing.Cached:
			cached = append(cached, s)
		case s.State != timing.Besides || s.Took >= t.Took/100:
			ran = append(ran, s)
		}
	}
	if len(ran) > 0 {
		w.WriteString("| Step | Time | State | Why it ran | CPU | Peak memory |\n|---|---:|---|---|---:|---:|\n")
		rows(&w, ran, func(s *timing.Step) {
			cpu, memory := "", ""
			if p := s.Process; p != nil && p.Usage != nil {
				cpu, memory = timing.Seconds(p.Usage.User+p.Usage.System), timing.Size(p.Usage.Memory)
			}
			fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s |\n", MarkdownText(s.Name), timing.Seconds(s.Took), s.State.Word(), MarkdownText(why(s)), cpu, memory)
		})
	}
	if len(cached) > 0 {
		fmt.Fprintf(&w, "\n<details><summary>%d of %d steps from the cache</summary>\n\n| Step | From |\n|---|---|\n", len(cached), t.Total)
		rows(&w, cached, func(s *timing.Step) { fmt.Fprintf(&w, "| %s | %s |\n", MarkdownText(s.Name), MarkdownText(s.From)) })
		w.WriteString("\n</details>\n")
	}
	w.WriteString("\n")
	return w.String()
}

func rows(w *strings.Builder, steps []*timing.Step, row func(*timing.Step)) {
	for i, s := range steps {
		if i == maxRows {
			fmt.Fprintf(w, "| and %d more | |\n", len(steps)-i)
			return
		}
		row(s)
	}
}

// why says what there is to say of how a step came to run.
func why(s *timing.Step) string {
	switch {
	case s.Error != "" && s.State != timing.GivenUp:
		return s.Error
	case s.Shared != "":
		return s.Shared + " ran it"
	}
	return s.Reason
}

// maxText is how much of a name or an error there is, in letters.
const maxText = 300

// MarkdownText is a text that is nothing but that in Markdown and in HTML, in one line: each ASCII sign that could be markup, or make a
// link, is a character reference, which never is.
func MarkdownText(s string) string {
	var w strings.Builder
	n := 0
	for _, r := range strings.Join(strings.Fields(s), " ") {
		if n++; n > maxText {
			w.WriteString("…")
			break
		}
		switch {
		case r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune(" ,;/=%()-", r):
			w.WriteRune(r)
		case !unicode.IsPrint(r):
			w.WriteRune(unicode.ReplacementChar)
		case r > unicode.MaxASCII:
			w.WriteRune(r)
		default:
			fmt.Fprintf(&w, "&#%d;", r)
		}
	}
	return w.String()
}
