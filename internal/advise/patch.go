package advise

import (
	"fmt"
	"slices"
	"strings"
)

// edit puts lines in the place of those from first to last, which count from 1. With last < first they are put in before first.
type edit struct {
	first, last int
	lines       []string
}

func splitLines(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }

func overlap(a, b []edit) bool {
	return slices.ContainsFunc(a, func(x edit) bool {
		return slices.ContainsFunc(b, func(y edit) bool { return x.first <= max(y.last, y.first) && y.first <= max(x.last, x.first) })
	})
}

// around is how many lines of a diff surround a change.
const around = 3

// unified is the unified diff of edits, or "" without any.
func unified(name string, lines []string, edits []edit) string {
	if len(edits) == 0 {
		return ""
	}
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.first - b.first })
	var b strings.Builder
	fmt.Fprintf(&b, "--- a/%s\n+++ b/%s\n", name, name)
	moved := 0
	for len(edits) > 0 {
		n := 1
		for n < len(edits) && edits[n].first-edits[n-1].last <= 2*around {
			n++
		}
		moved += hunk(&b, lines, edits[:n], moved)
		edits = edits[n:]
	}
	return b.String()
}

// hunk writes one hunk, and returns by how many lines the file grows with it.
func hunk(b *strings.Builder, lines []string, edits []edit, moved int) (grows int) {
	first := max(edits[0].first-around, 1)
	last := min(max(edits[len(edits)-1].last, edits[len(edits)-1].first-1)+around, len(lines))
	var body strings.Builder
	at, added, removed := first, 0, 0
	for _, e := range edits {
		for ; at < e.first; at++ {
			body.WriteString(" " + lines[at-1] + "\n")
		}
		for ; at <= e.last; at++ {
			body.WriteString("-" + lines[at-1] + "\n")
			removed++
		}
		for _, l := range e.lines {
			body.WriteString("+" + l + "\n")
			added++
		}
	}
	for ; at <= last; at++ {
		body.WriteString(" " + lines[at-1] + "\n")
	}
	fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n%s", first, last-first+1, first+moved, last-first+1+added-removed, body.String())
	return added - removed
}
