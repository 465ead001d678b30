package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "slipway")
	path := filepath.Join(dir, "slipway.toml")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// read reads a file that is named.
func read(path string, warn func(string)) (*Settings, error) {
	files, err := Load(path)
	if err != nil {
		return nil, err
	}
	return Parse(files, warn)
}

func TestRead(t *testing.T) {
	var warnings []string
	path := write(t, "root = '/a'\nbogus = 1\ncerts-dir = ['x', 'y']\n[build]\npids-limit = 5\npull = true\nnonsense = 'x'\n")
	s, err := read(path, func(text string) { warnings = append(warnings, text) })
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, group := range []any{s.Flags, s.Build, s.Run} {
		if err := Each(group, func(name string, values []string) error { got[name] = values; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if want := (map[string][]string{"root": {"/a"}, "certs-dir": {"x", "y"}, "pids-limit": {"5"}, "pull": {"true"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if want := []string{path + `:2: unknown key "bogus"`, path + `:7: unknown key "build.nonsense"`}; !reflect.DeepEqual(warnings, want) {
		t.Errorf("warned %q, want %q", warnings, want)
	}
}

// What is said later goes over what was said before, key by key.
func TestOver(t *testing.T) {
	system, err := parse("a", []byte("root = '/a'\nruntime = 'x'\n[build]\npull = true\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	user, err := parse("b", []byte("root = '/b'\n[build]\nprogress = 'plain'\n[run]\nuserns = 'auto'\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	over(reflect.ValueOf(system).Elem(), reflect.ValueOf(user).Elem())
	if got := strings.TrimSpace(fmt.Sprintln(system.Root, system.Runtime, system.Build.Pull, system.Build.Progress, system.Run.UserNS)); got != "/b x true plain auto" {
		t.Errorf("together they say %s", got)
	}
}

// Files that were not named are read only when nobody else can write them.
func TestGuarded(t *testing.T) {
	path := write(t, "root = '/a'\n")
	read := func() error { _, err := load(path, true); return err }
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{path, filepath.Dir(path)} {
		fi, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, fi.Mode()|0o002); err != nil {
			t.Fatal(err)
		}
		if err := read(); err == nil || !strings.Contains(err.Error(), "other users may write to "+at) {
			t.Errorf("a file that others can write to: %v", err)
		}
		if err := os.Chmod(at, fi.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := read(); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("a file of another user: %v", err)
		}
	}
}

func TestWrong(t *testing.T) {
	for text, want := range map[string]string{
		"root = \n":                       ":1:",
		"[build]\npull = true\n[build]\n": ":3:",
		"build = 5\n":                     ":1:",
	} {
		if _, err := read(write(t, text), func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s in it", text, err, want)
		}
	}
	if _, err := read(filepath.Join(t.TempDir(), "missing"), nil); err == nil {
		t.Error("a file that was named and is missing does")
	}
	s, err := parse("x", []byte("root = { a = 1 }\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Each(s.Flags, func(string, []string) error { return nil }); err == nil {
		t.Error("a table does for a flag")
	}
}

func TestPolicies(t *testing.T) {
	s, err := parse("x", []byte("gc = false\nminFreeSpace = '5%'\n[[gcpolicy]]\nreservedSpace = 5\nkeepDuration = '48h'\nfilters = ['a']\n[[gcpolicy]]\nall = true\nkeepDuration = 60\nmaxUsedSpace = \"1GB\"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(*s.GC, *s.MinFreeSpace, s.Policies); got != "false5%[{false 48h0m0s 5   [a]} {true 1m0s  1GB  []}]" {
		t.Errorf("read %s", got)
	}
	if _, err := parse("x", []byte("[[gcpolicy]]\nkeepDuration = 'long'\n"), nil); err == nil {
		t.Error("a duration that is none does")
	}
}
