// Package advise tells how the image of a Dockerfile becomes smaller: what was measured, the line that it comes of, and the change as a patch.
//
// # Structure
//
// [Advise] takes a Dockerfile and what takes the bytes of an image that was built of it. The instructions are brought together with the image's
// history (align.go); each advice (sizes.go) looks for something in the measured sizes, never in the Dockerfile alone, and makes a finding with
// edits of lines, of which [Finding.Patch] is the unified diff (patch.go). Advice that stands on what builds have left ([Built]: the graph, times of steps, files that
// they opened) is made of the graph of the last build, joined with the instructions (built.go): what is copied too early (copies.go), sent for
// nothing (ignored.go), fetched again and again (caches.go). It is silent where anything is not known.
//
// # Caveats
//
// Texts of findings come from the Dockerfile and the image: who shows them makes them harmless.
package advise

import (
	"cmp"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// Finding is one thing that could be better.
type Finding struct {
	Rule        string  `json:"rule"`
	Line        int     `json:"line"` // of the Dockerfile, the first one of the instruction
	Instruction string  `json:"instruction"`
	Bytes       int64   `json:"bytes"`             // measured, of files of the image, or of the context
	Context     bool    `json:"context,omitempty"` // Bytes are the context's
	Seconds     float64 `json:"seconds,omitempty"` // measured, of builds
	What        string  `json:"what"`
	Change      string  `json:"change"`          // in words
	Patch       string  `json:"patch,omitempty"` // unified diff; "" where only words are known

	edits  []edit   // of the Dockerfile
	ignore []string // lines of the file that says what is ignored
}

// Input is what there is to look at.
type Input struct {
	Name   string // of the Dockerfile, as patches have it
	Text   string
	Target string
	Report *imagesize.Report
	Tree   layer.Tree // of the image
	Built  *Built     // nil: nothing is known of how it was built
	Ignore IgnoreFile
}

// minBytes is how much a finding has at least: less is not worth a line.
const (
	minBytes   = 100 << 10
	minSeconds = 0.2
)

// Advise tells what could be better, the most bytes first. A Dockerfile that the image was not built of is [ErrOther].
func Advise(in Input) ([]Finding, error) {
	d, err := align(in)
	if err != nil {
		return nil, err
	}
	all := []Finding{}
	for _, advice := range []func(*dockerfile) []Finding{leftovers, rewritten, deleted, compilers, copiedEarly, sentForNothing, cached} {
		for _, f := range advice(d) {
			if f.Bytes >= minBytes || f.Seconds >= minSeconds {
				f.Patch = patchOf(in, f.edits, f.ignore)
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(a.Line, b.Line))
	})
	return all, nil
}

// Patch is one diff of all findings whose changes do not touch the same lines, the first ones first.
func Patch(in Input, all []Finding) string {
	var edits []edit
	var ignore []string
	for _, f := range all {
		if len(f.edits) > 0 && !overlap(edits, f.edits) {
			edits = append(edits, f.edits...)
		}
		ignore = append(ignore, f.ignore...)
	}
	return patchOf(in, edits, ignore)
}

// patchOf is the diff of edits of the Dockerfile, and of lines that are added to the file that says what is ignored.
func patchOf(in Input, edits []edit, ignore []string) string {
	patch := unified(in.Name, text{splitLines(in.Text), !strings.HasSuffix(in.Text, "\n")}, edits)
	switch {
	case len(ignore) == 0:
	case in.Ignore.Text == "":
		patch += created(in.Ignore.Name, !in.Ignore.New, ignore)
	default:
		t := text{splitLines(in.Ignore.Text), !strings.HasSuffix(in.Ignore.Text, "\n")}
		patch += unified(in.Ignore.Name, t, []edit{{len(t.lines) + 1, len(t.lines), ignore}})
	}
	return patch
}
