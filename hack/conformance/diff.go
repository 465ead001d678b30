package conformance

import (
	"regexp"
	"slices"
	"strings"
)

// Diff gives the lines of want that are not in got, with "-", and those of got that are not in want,
// with "+", by a longest common subsequence of lines.
func Diff(want, got string) []string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	// What is equal at the ends needs no table.
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
	}
	for i, x := range slices.Backward(a) {
		for j, y := range slices.Backward(b) {
			if x == y {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || (i < len(a) && table[i+1][j] >= table[i][j+1]):
			out = append(out, "-"+strings.TrimSpace(a[i]))
			i++
		default:
			out = append(out, "+"+strings.TrimSpace(b[j]))
			j++
		}
	}
	return out
}

var dirTime = regexp.MustCompile(`^dir (.*) at (\S+)$`)

// LeaveTimes makes directories equal that differ only in that BuildKit left them the time of the
// build, when it put something into them (docs/differences.md).
func LeaveTimes(want, got *Record) {
	for i := range min(len(want.Images), len(got.Images)) {
		for j := range min(len(want.Images[i].Layers), len(got.Images[i].Layers)) {
			leaveTime(want.Images[i].Layers[j], got.Images[i].Layers[j])
		}
	}
	leaveTime(want.Files, got.Files)
}

func leaveTime(want, got []string) {
	built := map[string]bool{}
	for _, line := range want {
		if m := dirTime.FindStringSubmatch(line); m != nil && m[2] == "now" {
			built[m[1]] = true
		}
	}
	for i, line := range got {
		if m := dirTime.FindStringSubmatch(line); m != nil && built[m[1]] {
			got[i] = "dir " + m[1] + " at now"
		}
	}
}
