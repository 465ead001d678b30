package layer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// makeFiles makes empty files, and directories for names that end in "/".
func makeFiles(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(n, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// counting counts the directories that are read.
type counting struct {
	Tree
	read []string
}

func (c *counting) ReadDir(name string) ([]*Entry, error) {
	c.read = append(c.read, name)
	return c.Tree.ReadDir(name)
}

func TestFilter(t *testing.T) {
	files := []string{"Dockerfile", "main.go", "main_test.go", "a/x.go", "a/b/y.txt", "a/b/keep", "empty/", "node_modules/m/index.js", "node_modules/m/LICENSE", "vendor/v/v.go", ".git/HEAD"}
	tests := []struct {
		name string
		opt  FilterOpt
		want string
		read string // directories entered, when it matters
	}{
		{"nothing", FilterOpt{}, ". .git .git/HEAD Dockerfile a a/b a/b/keep a/b/y.txt a/x.go empty main.go main_test.go node_modules node_modules/m node_modules/m/LICENSE node_modules/m/index.js vendor vendor/v vendor/v/v.go", ""},
		{"directories", FilterOpt{Exclude: []string{"node_modules", ".git", "vendor"}}, ". Dockerfile a a/b a/b/keep a/b/y.txt a/x.go empty main.go main_test.go", ". a a/b empty"},
		{"trailing slash", FilterOpt{Exclude: []string{"node_modules/", "/.git", "vendor/", "a/"}}, ". .git .git/HEAD Dockerfile empty main.go main_test.go", ""},
		{"exception", FilterOpt{Exclude: []string{"node_modules", "!node_modules/m/LICENSE", ".git", "vendor", "a"}}, ". Dockerfile empty main.go main_test.go node_modules node_modules/m node_modules/m/LICENSE", ". empty node_modules node_modules/m"},
		{"everything but", FilterOpt{Exclude: []string{"*", "!a/b"}}, ". a a/b a/b/keep a/b/y.txt", ". a a/b"},
		{"exception in vain", FilterOpt{Exclude: []string{"*", "!empty/none", "!main.go"}}, ". main.go", ". empty"},
		{"last wins", FilterOpt{Exclude: []string{"!main.go", "*.go"}}, ". .git .git/HEAD Dockerfile a a/b a/b/keep a/b/y.txt a/x.go empty node_modules node_modules/m node_modules/m/LICENSE node_modules/m/index.js vendor vendor/v vendor/v/v.go", ""},
		{"double star", FilterOpt{Exclude: []string{"**/*.go", "**/m", ".*", "**/.*", "empty", "vendor"}}, ". Dockerfile a a/b a/b/keep a/b/y.txt node_modules", ""},
		{"include", FilterOpt{Include: []string{"a/b", "*.go"}}, ". a a/b a/b/keep a/b/y.txt main.go main_test.go", ""},
		{"include file", FilterOpt{Include: []string{"a/b/keep"}}, ". a a/b a/b/keep", ". a a/b"},
		{"include and exclude", FilterOpt{Include: []string{"a"}, Exclude: []string{"**/y.txt"}}, ". a a/b a/b/keep a/x.go", ""},
		{"include nothing", FilterOpt{Include: []string{"zz"}}, ".", "."},
	}
	dir := makeFiles(t, files...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &counting{Tree: OpenDir(dir, DirOptions{})}
			f, err := Filter(c, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := Walk(f, ".", func(e *Entry) error { got = append(got, e.Path); return nil }); err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
			seen := map[string]bool{}
			for _, d := range c.read {
				seen[d] = true
			}
			for _, d := range strings.Fields(tt.read) {
				delete(seen, d)
			}
			if tt.read != "" && len(seen) > 0 {
				t.Errorf("also entered %v", seen)
			}
			// Lstat on a fresh filter agrees with what listing shows.
			f, _ = Filter(OpenDir(dir, DirOptions{}), tt.opt)
			shown := map[string]bool{}
			for _, p := range got {
				shown[p] = true
			}
			for _, p := range strings.Fields(tests[0].want) {
				if _, err := f.Lstat(p); (err == nil) != shown[p] {
					t.Errorf("Lstat(%q): %v, but listed: %v", p, err, shown[p])
				}
			}
		})
	}
	if _, err := Filter(OpenDir(dir, DirOptions{}), FilterOpt{Exclude: []string{"[a"}}); err == nil {
		t.Error("a malformed pattern was accepted")
	}
}

func TestResolve(t *testing.T) {
	dir := makeFiles(t, "usr/bin/sh", "d/e/f", "file")
	for name, target := range map[string]string{
		"bin": "usr/bin", "abs": "/usr/bin", "up": "../../../d", "d/back": "..", "d/e/chain": "../../bin",
		"loop": "loop2", "loop2": "loop", "dangling": "/no/where", "d/dots": "../d/./e/../e",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	tree := OpenDir(dir, DirOptions{})
	tests := []struct {
		path   string
		follow bool
		want   string
	}{
		{"", true, "."}, {"/", true, "."}, {"..", true, "."}, {"/bin/sh", true, "usr/bin/sh"}, {"bin", false, "bin"},
		{"bin", true, "usr/bin"}, {"bin/", true, "usr/bin"}, {"abs/sh", true, "usr/bin/sh"}, {"up/e/f", true, "d/e/f"},
		{"bin/../x", true, "usr/x"}, {"d/back/file", true, "file"}, {"d/e/chain/sh", true, "usr/bin/sh"},
		{"dangling", true, "no/where"}, {"dangling/x", true, "no/where/x"}, {"dangling", false, "dangling"},
		{"new/deep/er", true, "new/deep/er"}, {"new/../d", true, "d"}, {"d/dots/f", true, "d/e/f"}, {"./d//e/.", true, "d/e"},
		{"abs/new", false, "usr/bin/new"}, {"file", true, "file"},
	}
	for _, tt := range tests {
		if got, err := Resolve(tree, tt.path, tt.follow); err != nil || got != tt.want {
			t.Errorf("Resolve(%q, %v) = %q, %v, want %q", tt.path, tt.follow, got, err, tt.want)
		}
	}
	for _, p := range []string{"loop", "loop/x", "file/x"} {
		if got, err := Resolve(tree, p, true); err == nil {
			t.Errorf("Resolve(%q) = %q", p, got)
		}
	}
	if b, err := ReadFile(tree, "/bin/sh"); err != nil || len(b) != 0 {
		t.Errorf("ReadFile: %q, %v", b, err)
	}
	if _, err := Open(tree, "bin"); err == nil {
		t.Error("a directory was opened")
	}
}
