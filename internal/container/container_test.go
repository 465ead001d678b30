package container

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

func TestConfigMergesAsDockerDoes(t *testing.T) {
	img := &Image{Config: ocispec.Image{Config: ocispec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"default"}, Env: []string{"A=1", "B=2"}, WorkingDir: "/w", User: "u",
	}}}
	for _, tc := range []struct {
		name string
		opts Options
		want []string
	}{
		{"image's own", Options{}, []string{"/entry", "default"}},
		{"arguments replace CMD", Options{Args: []string{"x", "y"}}, []string{"/entry", "x", "y"}},
		{"--entrypoint drops CMD", Options{Entrypoint: []string{"/other"}}, []string{"/other"}},
		{"--entrypoint with arguments", Options{Entrypoint: []string{"/other"}, Args: []string{"x"}}, []string{"/other", "x"}},
		{"an empty --entrypoint", Options{Entrypoint: []string{""}, Args: []string{"sh"}}, []string{"sh"}},
	} {
		c, err := NewConfig(img, tc.opts)
		if err != nil || !reflect.DeepEqual(c.Args, tc.want) {
			t.Errorf("%s: %v, %v, want %v", tc.name, c, err, tc.want)
		}
	}
	if _, err := NewConfig(img, Options{Entrypoint: []string{""}}); err != ErrNoCommand {
		t.Errorf("no command: %v", err)
	}
	if _, err := NewConfig(img, Options{Cwd: "relative"}); err == nil {
		t.Error("a relative working directory is accepted")
	}
	c, err := NewConfig(img, Options{Env: []string{"B=3", "C=4", "A", "C=5"}})
	if want := []string{"B=3", "C=5"}; err != nil || !reflect.DeepEqual(c.Env, want) {
		t.Errorf("environment %v, %v, want %v", c.Env, err, want)
	}
	if c.Cwd != "/w" || c.User != "u" || c.Network != "bridge" {
		t.Errorf("config %+v", c)
	}
	if c, err = NewConfig(&Image{}, Options{Args: []string{"x"}}); err != nil || c.Cwd != "/" {
		t.Errorf("empty image: %+v, %v", c, err)
	}
}

func TestCopyRules(t *testing.T) {
	file := &source{entry: &layer.Entry{Mode: unix.S_IFREG}, base: "f"}
	dir := &source{entry: &layer.Entry{Mode: unix.S_IFDIR}, base: "d"}
	for _, tc := range []struct {
		name   string
		src    *source
		dst    destination
		inside bool
		err    string
	}{
		{"file to new name", file, destination{name: "n", parentIsDir: true}, false, ""},
		{"file to new name with slash", file, destination{name: "n/", slash: true, parentIsDir: true}, false, "must exist"},
		{"file to file", file, destination{name: "n", exists: true}, false, ""},
		{"file to file with slash", file, destination{name: "n/", exists: true, slash: true}, false, "not a directory"},
		{"file to directory", file, destination{name: "n", exists: true, isDir: true}, true, ""},
		{"file below nothing", file, destination{name: "a/n", noParent: errors.New("no parent")}, false, "no parent"},
		{"directory to new name", dir, destination{name: "n", parentIsDir: true}, false, ""},
		{"directory to new name with slash", dir, destination{name: "n/", slash: true, parentIsDir: true}, false, ""},
		{"directory to file", dir, destination{name: "n", exists: true}, false, "cannot copy a directory"},
		{"directory to directory", dir, destination{name: "n", exists: true, isDir: true}, true, ""},
		{"directory below nothing", dir, destination{name: "a/n", noParent: errors.New("no parent")}, false, "no parent"},
	} {
		inside, err := tc.src.inside(tc.dst)
		if inside != tc.inside || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: inside %v, %v", tc.name, inside, err)
		}
	}
}

func TestRebase(t *testing.T) {
	for _, tc := range [][4]string{
		{"a/b/c", "a/b", "x", "x/c"}, {"a/b", "a/b", "x", "x"}, {"a/b/c", "a/b", ".", "c"}, {"a/b", "a/b", ".", "."},
		{"a", ".", "x", "x/a"}, {".", ".", "x", "x"}, {".", ".", ".", "."}, {"a/bc", "a/bc", "y/z", "y/z"},
	} {
		if got := rebase(tc[0], tc[1], tc[2]); got != tc[3] {
			t.Errorf("rebase(%q, %q, %q) = %q, want %q", tc[0], tc[1], tc[2], got, tc[3])
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "web-1": true, "A_b.c": true, "": false, "-a": false, "a b": false, "a/b": false, "ä": false} {
		if ValidName(name) != ok {
			t.Errorf("ValidName(%q) = %v", name, !ok)
		}
	}
	for try := range 8 {
		if name := RandomName(try); !ValidName(name) || !strings.Contains(name, "_") {
			t.Errorf("made-up name %q", name)
		}
	}
}
