// Package advise tells how the image of a Dockerfile becomes smaller: what was measured, the line that it comes of, and the change as a patch.
//
// # Structure
//
// [Advise] takes a Dockerfile and what takes the bytes of an image that was built of it. The instructions are brought together with the image's
// history (align.go); each advice (sizes.go) looks for something in the measured sizes, never in the Dockerfile alone, and makes a finding with
// edits of lines, of which [Finding.Patch] is the unified diff (patch.go). Advice that stands on other records, such as times of steps or files that
// they opened, is one more function of the list.
//
// # Caveats
//
// Texts of findings come from the Dockerfile and the image: who shows them makes them harmless.
package advise

import (
	"cmp"
	"slices"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

// Finding is one thing that could be better.
type Finding struct {
	Rule        string  `json:"rule"`
	Line        int     `json:"line"` // of the Dockerfile, the first one of the instruction
	Instruction string  `json:"instruction"`
	Bytes       int64   `json:"bytes"`             // measured, of files of the image
	Seconds     float64 `json:"seconds,omitempty"` // measured, of a build; no advice of now has them
	What        string  `json:"what"`
	Change      string  `json:"change"`          // in words
	Patch       string  `json:"patch,omitempty"` // unified diff; "" where only words are known

	edits []edit
}

// Input is what there is to look at.
type Input struct {
	Name   string // of the Dockerfile, as patches have it
	Text   string
	Target string
	Report *imagesize.Report
	Tree   layer.Tree // of the image
}

// minBytes is how much a finding has at least: less is not worth a line.
const minBytes = 100 << 10

// Advise tells what could be better, the most bytes first. A Dockerfile that the image was not built of is [ErrOther].
func Advise(in Input) ([]Finding, error) {
	d, err := align(in)
	if err != nil {
		return nil, err
	}
	all := []Finding{}
	for _, advice := range []func(*dockerfile) []Finding{leftovers, rewritten, deleted, compilers} {
		for _, f := range advice(d) {
			if f.Bytes >= minBytes {
				f.Patch = unified(in.Name, d.lines, f.edits)
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Line, b.Line)) })
	return all, nil
}

// Patch is one diff of all findings whose changes do not touch the same lines, the first ones first.
func Patch(in Input, all []Finding) string {
	lines := splitLines(in.Text)
	var edits []edit
	for _, f := range all {
		if len(f.edits) > 0 && !overlap(edits, f.edits) {
			edits = append(edits, f.edits...)
		}
	}
	return unified(in.Name, lines, edits)
}
