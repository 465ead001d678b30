package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestUpToDate fails when a command changed and docs/commands.md did not.
func TestUpToDate(t *testing.T) {
	got, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	want := reference()
	if bytes.Equal(got, want) {
		return
	}
	have, need := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range need {
		if i >= len(have) || have[i] != need[i] {
			t.Fatalf("docs/commands.md is out of date: run `make docs`. Line %d should be:\n%s", i+1, need[i])
		}
	}
	t.Fatal("docs/commands.md is out of date, it has more lines than there should be: run `make docs`")
}

// TestDescribed fails when a command or a flag that is shown says nothing of itself.
func TestDescribed(t *testing.T) {
	for _, line := range strings.Split(string(reference()), "\n") {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| `") && strings.Trim(cells[len(cells)-1], " |") == "" {
			t.Errorf("nothing is told of %s", cells[0])
		}
	}
}
