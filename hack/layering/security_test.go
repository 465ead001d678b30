package layering

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

var (
	// named is what the test of a boundary can be: a test with or without one of its parts, another part of the last one,
	// a script of the command line, a target of make; or where those before it are.
	named    = regexp.MustCompile("(?:Test|Fuzz)[A-Z]\\w*(?:/\\w+)?|`/(\\w+)`|\\w+\\.txtar|script (\\w+)|make (\\w+)|in ((?:internal|hack|cmd)/[\\w/]+)")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w*)\(`)
)

// tests are those of this repository: the directories in which each is declared, and the text of all tests of a directory.
func tests(t *testing.T, top string) (where map[string][]string, texts map[string]string) {
	t.Helper()
	where, texts = map[string][]string{}, map[string]string{}
	for _, root := range []string{"cmd", "hack", "internal"} {
		err := filepath.WalkDir(filepath.Join(top, root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			dir, _ := filepath.Rel(top, filepath.Dir(path))
			for _, m := range testFunc.FindAllStringSubmatch(string(text), -1) {
				where[m[1]] = append(where[m[1]], dir)
			}
			texts[dir] += string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return where, texts
}

// Each boundary in docs/security.md has a test, and each test that is named is there.
func TestBoundariesHaveTests(t *testing.T) {
	top := filepath.Join("..", "..")
	where, texts := tests(t, top)
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(top, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	boundaries := false
	for i, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.HasPrefix(line, "|---") {
			boundaries = boundaries && strings.HasPrefix(line, "|")
			continue
		}
		if strings.TrimSpace(cells[1]) == "boundary" {
			boundaries = true
			continue
		}
		if !boundaries {
			continue
		}
		missing := func(what string) { t.Errorf("docs/security.md:%d: there is no %s", i+1, what) }
		var last string   // the test whose parts follow
		var here []string // tests whose place is still to be told
		found := 0
		for _, m := range named.FindAllStringSubmatch(cells[len(cells)-2], -1) {
			test, part, _ := strings.Cut(m[0], "/")
			switch {
			case m[4] != "":
				for _, name := range here {
					if !slices.Contains(where[name], m[4]) {
						missing(name + " in " + m[4])
					}
				}
				here = nil
				continue
			case m[3] != "":
				if !regexp.MustCompile(`(?m)^` + m[3] + `:`).Match(makefile) {
					missing("target of make " + m[3])
				}
			case m[2] != "" || strings.HasSuffix(m[0], ".txtar"):
				name := strings.TrimSuffix(cmp.Or(m[2], m[0]), ".txtar") + ".txtar"
				if files, _ := filepath.Glob(filepath.Join(top, "internal/cli/testdata/*", name)); files == nil {
					missing("script " + name)
				}
			default:
				if m[1] != "" {
					test, part = last, m[1]
				}
				last = test
				here = append(here, test)
				dirs := where[test]
				if len(dirs) == 0 {
					missing(test)
				} else if part != "" && !slices.ContainsFunc(dirs, func(dir string) bool { return strings.Contains(texts[dir], `"`+part+`"`) }) {
					missing(test + "/" + part)
				}
			}
			found++
		}
		if found == 0 {
			t.Errorf("docs/security.md:%d: a boundary without a test", i+1)
		}
	}
}
