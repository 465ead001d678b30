package sandbox

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// coveredRunner starts containers with a given program.
func coveredRunner(t testing.TB, state, keep string, from fs.File) Runner {
	t.Helper()
	r, err := New(Options{StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	l := &linked{newFilter(""), coverWith(from, keep)}
	r.(*runner).prepare, r.(*runner).execute = l.prepare, l.run
	return r
}

// TestLibcontainerCovered runs the suite with containers that start from the small program, as
// `make build` has it.
func TestLibcontainerCovered(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go here to build the small program with")
	}
	path := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "seccomp netgo osusergo", "-ldflags", "-extldflags -static", "-o", path, "./initproc/init")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building init: %v: %s", err, out)
	}
	runnerSuite(t, func(t testing.TB, state string) Runner {
		from, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return coveredRunner(t, state, t.TempDir(), from)
	}, true)
}

// A program that is no init shows whether the container was started from it.
func TestLibcontainerIsCovered(t *testing.T) {
	l := newLab(t, func(t testing.TB, state string) Runner {
		return coveredRunner(t, state, t.TempDir(), file(t, "not a program"))
	})
	if _, err := l.try(l.command("true")); err == nil {
		t.Error("the container was not started from the program in the covering directory")
	}
}

// file is an open file with some text.
func file(t testing.TB, text string) fs.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, text)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCoverIsKept(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "keep")
	fill := func(text string) (string, os.FileInfo) {
		t.Helper()
		c := coverWith(file(t, text), keep)
		if err := c.make(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(c.dir, filepath.Base(c.self))
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, info
	}
	path, first := fill("program")
	if _, again := fill("program"); !os.SameFile(first, again) {
		t.Error("the program was written again")
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	mkdir(t, filepath.Join(keep, "of another program"))
	if _, repaired := fill("program"); repaired.Size() != first.Size() {
		t.Errorf("a damaged program has %d bytes, want %d", repaired.Size(), first.Size())
	}
	if left, err := os.ReadDir(keep); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v, want one directory", left, err)
	}
}

func TestHides(t *testing.T) {
	proc := []specs.Mount{{Type: "proc", Source: "proc"}}
	bind := []specs.Mount{{Type: "bind", Source: "/opt/bin/file"}}
	for _, c := range []struct {
		dir, scratch string
		mounts       []specs.Mount
		want         bool
	}{
		{"/usr/bin", "/var/lib/slipway/tmp/1/scratch", proc, false},
		{"/var/lib/slip", "/var/lib/slipway/tmp/1/scratch", proc, false},
		{"/var/lib", "/var/lib/slipway/tmp/1/scratch", proc, true},
		{"/", "/var/lib/slipway/tmp/1/scratch", proc, true},
		{"/usr/bin", "/var/lib/slipway/tmp/1/scratch", bind, true},
	} {
		if got := hides(c.dir, c.scratch, c.mounts); got != c.want {
			t.Errorf("hides(%s, %s, %v) = %v", c.dir, c.scratch, c.mounts, got)
		}
	}
}
