package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestMerge has a file for each shape of the pattern: the script and its Dockerfiles, and the Dockerfile ("want") or the problems ("problems") that
// come of them.
func TestMerge(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no shapes")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { testShape(t, file) })
	}
}

func testShape(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := map[string]string{}
	for _, f := range a.Files {
		if strings.HasPrefix(f.Name, "want") {
			want[f.Name] = string(f.Data)
			continue
		}
		name := filepath.Join(dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, f.Data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	script, err := Read(filepath.Join(dir, "build.sh"))
	var merged *Merged
	if err == nil {
		merged, err = script.Merge(Options{})
	}
	var problems Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			got["want-problems"] += p.String() + "\n"
		}
	case err != nil:
		t.Fatal(err)
	default:
		got["want"] = merged.Text
		for _, n := range merged.Notes {
			got["want-notes"] += n.String() + "\n"
		}
		for _, arg := range merged.Args {
			got["want-args"] += arg.Name + "=" + arg.Value + "\n"
		}
	}
	for _, name := range []string{"want", "want-problems", "want-notes", "want-args"} {
		if got[name] != want[name] {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got[name], want[name])
		}
	}
}
