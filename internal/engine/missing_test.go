package engine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
)

func TestExcludedBy(t *testing.T) {
	for _, tc := range []struct {
		name     string
		patterns []string
		want     string
	}{
		{"a.txt", []string{"*.md"}, ""},
		{"a.txt", []string{"*.md", "*.txt", "a.*"}, "*.txt"},
		{"a.txt", []string{"*.txt", "!a.txt"}, ""},
		{"a.txt", []string{"*", "!*.txt", "a.*"}, "a.*"},
		{"d/e/a.txt", []string{"!x", "d"}, "d"},
		{"d/e/a.txt", []string{"d", "!d/e", "**/e/*.txt"}, "**/e/*.txt"},
		{"a.txt", []string{"", " ", "*.txt"}, "*.txt"},
		{"a.txt", []string{"*.txt", "[", "!b"}, ""},
	} {
		if got := excludedBy(tc.patterns, tc.name); got != tc.want {
			t.Errorf("%s by %q: got %q, want %q", tc.name, tc.patterns, got, tc.want)
		}
	}
}

// Each pattern is looked at once: a build that fails does not wait for a long file of them.
func TestExcludedByMany(t *testing.T) {
	allocs := func(n int) float64 {
		patterns := make([]string, n)
		for i := range patterns {
			patterns[i] = fmt.Sprintf("**/dir%d/*.log", i)
		}
		return testing.AllocsPerRun(1, func() { excludedBy(patterns, "some/a.txt") })
	}
	if few, many := allocs(20), allocs(80); many > 6*few {
		t.Errorf("%.0f allocations for 20 patterns, %.0f for 80", few, many)
	}
}

// What displays have of a client's name for its directory is short.
func TestLocalNameIsShort(t *testing.T) {
	named := func(name string) string {
		return localName(&graph.Vertex{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: schemeLocal + name}}}})
	}
	if got := named("context"); got != "context" {
		t.Errorf("the name is %q", got)
	}
	if got := named(strings.Repeat("x\n", 1<<20)); len(got) > 2*maxCommand || strings.Contains(got, "\n") {
		t.Errorf("a long name has %d bytes: %.200q", len(got), got)
	}
}
