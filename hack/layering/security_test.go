package layering

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A boundary has one row in docs/security.md: of two, which merges bring about, one is not true any more.
func TestBoundariesAreToldOnce(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows, section := map[string]int{}, ""
	for i, line := range strings.Split(string(text), "\n") {
		if title, ok := strings.CutPrefix(line, "#"); ok {
			section = title
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| boundary |") {
			continue
		}
		// The beginning tells what it is about: numbers follow.
		about, _, _ := strings.Cut(strings.Split(line, "|")[1], ", and ")
		about = section + strings.ToLower(strings.TrimSpace(about))
		if first := rows[about]; first > 0 {
			t.Errorf("docs/security.md:%d: a row on what the one in line %d is about", i+1, first)
		}
		rows[about] = i + 1
	}
	if len(rows) < 50 {
		t.Errorf("docs/security.md has %d rows: are they read?", len(rows))
	}
}
