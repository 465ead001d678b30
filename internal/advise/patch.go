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

// text is one in lines, the last of which may have no line break.
type text struct {
	lines []string
	open  bool
}

// openEnd is what a diff says below a line without a line break.
const openEnd = "\\ No newline at end of file\n"

// created is the diff that makes a file, or fills an empty one.
func created(name string, there bool, lines []string) string {
	before := "/dev/null"
	if there {
		before = "a/" + name
	}
	return fmt.Sprintf("--- %s\n+++ b/%s\n@@ -0,0 +1,%d @@\n+%s\n", before, name, len(lines), strings.Join(lines, "\n+"))
}

// unified is the unified diff of edits, or "" without any.
func unified(name string, t text, edits []edit) string {
	if len(edits) == 0 {
		return ""
	}
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.first - b.first })
	for i, e := range edits { // what comes after a line without a break gives it one
		if n := len(t.lines); t.open && e.first > n && (i == 0 || edits[i-1].last < n) {
			edits[i] = edit{n, n, append([]string{t.lines[n-1]}, e.lines...)}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--- a/%s\n+++ b/%s\n", name, name)
	moved := 0
	for len(edits) > 0 {
		n := 1
		for n < len(edits) && edits[n].first-edits[n-1].last <= 2*around {
			n++
		}
		moved += hunk(&b, t, edits[:n], moved)
		edits = edits[n:]
	}
	return b.String()
}

// hunk writes one hunk, and returns by how many lines the file grows with it.
func hunk(b *strings.Builder, t text, edits []edit, moved int) (grows int) {
	lines := t.lines
	first := max(edits[0].first-around, 1)
	last := min(max(edits[len(edits)-1].last, edits[len(edits)-1].first-1)+around, len(lines))
	var body strings.Builder
	at, added, removed := first, 0, 0
	old := func(sign string) {
		body.WriteString(sign + lines[at-1] + "\n")
		if at == len(lines) && t.open {
			body.WriteString(openEnd)
		}
	}
	for _, e := range edits {
		for ; at < e.first; at++ {
			old(" ")
		}
		for ; at <= e.last; at++ {
			old("-")
			removed++
		}
		for _, l := range e.lines {
			body.WriteString("+" + l + "\n")
			added++
		}
	}
	for ; at <= last; at++ {
		old(" ")
	}
	fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n%s", first, last-first+1, first+moved, last-first+1+added-removed, body.String())
	return added - removed
}
