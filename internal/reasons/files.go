package reasons

import (
	"fmt"
	"strings"
)

// FileDiff is in what the files differ that a step reads.
type FileDiff struct {
	Total   int `json:"total"` // how many there are now
	Changed int `json:"changed"`
	Added   int `json:"added"`
	Removed int `json:"removed"`
	// Names are some of those that differ, at most [MaxNames]: changed ones first, then new ones, then those that are gone.
	Names []FileChange `json:"names"`
}

// FileChange is one file that differs. Change is "changed", "attributes" when its content did not, "added" or "removed".
type FileChange struct {
	Path   string `json:"path"`
	Change string `json:"change"`
}

// MaxNames is how many names a [FileDiff] has.
const MaxNames = 100

// How many names, and letters of them, a line has.
const (
	maxNames   = 5
	maxLetters = 160
)

// notes are what stands behind a name.
func note(change string) string {
	switch change {
	case "added":
		return " (new)"
	case "removed":
		return " (removed)"
	case "attributes":
		return " (mode or owner)"
	}
	return ""
}

// text is the difference in one line: "2 of 1,204 files changed: src/app.go, README.md".
func (d *FileDiff) text(from string) string {
	if from != "" {
		from = " of " + shown(from)
	}
	n := d.Changed + d.Added + d.Removed
	var names []string
	letters := 0
	for _, f := range d.Names {
		name := shown(f.Path) + note(f.Change)
		if len(names) == maxNames || len(names) > 0 && letters+len(name) > maxLetters {
			break
		}
		names, letters = append(names, name), letters+len(name)
	}
	if n > len(names) {
		names = append(names, fmt.Sprintf("and %s more", thousands(n-len(names))))
	}
	files := "files"
	if d.Total == 1 {
		files = "file"
	}
	return fmt.Sprintf("%s of %s %s%s changed: %s", thousands(n), thousands(d.Total), files, from, strings.Join(names, ", "))
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
