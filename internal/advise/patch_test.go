package advise

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnified has patch apply what edits say.
func TestUnified(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("there is no patch")
	}
	lines := strings.Split("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", " ")
	for name, c := range map[string]struct {
		edits []edit
		want  string
	}{
		"one":        {[]edit{{5, 5, []string{"five"}}}, "1 2 3 4 five 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
		"first":      {[]edit{{1, 2, []string{"one"}}}, "one 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
		"last":       {[]edit{{20, 20, []string{"a", "b"}}}, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 a b"},
		"added":      {[]edit{{21, 20, []string{"21"}}}, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21"},
		"in between": {[]edit{{4, 3, []string{"x"}}}, "1 2 3 x 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
		"removed":    {[]edit{{3, 4, nil}}, "1 2 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"},
		"two":        {[]edit{{16, 16, []string{"y", "z"}}, {2, 2, nil}}, "1 3 4 5 6 7 8 9 10 11 12 13 14 15 y z 17 18 19 20"},
		"near":       {[]edit{{2, 2, []string{"a", "b"}}, {6, 7, []string{"c"}}}, "1 a b 3 4 5 c 8 9 10 11 12 13 14 15 16 17 18 19 20"},
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "-F0", "-p1")
		cmd.Dir, cmd.Stdin = filepath.Dir(file), strings.NewReader(unified("f", text{lines: lines}, c.edits))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
			continue
		}
		if strings.Contains(string(out), "offset") {
			t.Errorf("%s: the lines of a hunk are elsewhere: %s", name, out)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if words := strings.Join(strings.Fields(string(got)), " "); words != c.want {
			t.Errorf("%s: got %s, want %s", name, words, c.want)
		}
	}
}

// A later hunk says where its lines are after the earlier ones.
func TestHunksMove(t *testing.T) {
	lines := strings.Split(strings.Repeat("x ", 20), " ")
	diff := unified("f", text{lines: lines}, []edit{{16, 16, []string{"y", "z"}}, {2, 2, nil}})
	for _, head := range []string{"@@ -1,5 +1,4 @@\n", "@@ -13,7 +12,8 @@\n"} {
		if !strings.Contains(diff, head) {
			t.Errorf("%q is missing in\n%s", head, diff)
		}
	}
}

// A last line without a line break stays so, unless something comes after it; and a file that is not there is made.
func TestOpenEnd(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("there is no patch")
	}
	lines := strings.Split("1 2 3 4 5", " ")
	for name, c := range map[string]struct{ diff, want string }{
		"kept":    {unified("f", text{lines, true}, []edit{{3, 3, []string{"three"}}}), "1\n2\nthree\n4\n5"},
		"added":   {unified("f", text{lines, true}, []edit{{6, 5, []string{"6"}}}), "1\n2\n3\n4\n5\n6\n"},
		"changed": {unified("f", text{lines, true}, []edit{{5, 5, []string{"five"}}}), "1\n2\n3\n4\nfive\n"},
		"new":     {created("g", false, []string{"a", "b"}), "a\nb\n"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, tool := range [][]string{{"patch", "-F0", "-p1"}, {"git", "apply"}} {
			if tool[0] == "git" {
				if _, err := exec.LookPath("git"); err != nil {
					continue
				}
				dir = t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "f"), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(tool[0], tool[1:]...)
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(c.diff)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v: %s in\n%s", name, tool[0], err, out, c.diff)
				continue
			}
			file := "f"
			if name == "new" {
				file = "g"
			}
			if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != c.want {
				t.Errorf("%s: %s: got %q, %v, want %q", name, tool[0], got, err, c.want)
			}
		}
	}
}
