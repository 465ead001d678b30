package engine

import (
	"fmt"
	"testing"
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
