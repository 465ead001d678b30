package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/cli"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// TestMain makes this test binary the program slipway, too, and gives the tests a mount namespace of their own.
func TestMain(m *testing.M) {
	sandbox.Init()
	if filepath.Base(os.Args[0]) == "slipway" {
		os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
	}
	if os.Geteuid() != 0 || os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	if err := again(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestTorture is the short form of make torture: the same few rounds each time.
func TestTorture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	if _, err := baseimage.FindBusybox(); errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	slipway := filepath.Join(t.TempDir(), "slipway")
	if err := os.Symlink(self, slipway); err != nil {
		t.Fatal(err)
	}
	tmpfs := "/dev/shm"
	if _, err := os.Stat(tmpfs); err != nil {
		tmpfs = t.TempDir()
	}
	g, err := newGround(t.Context(), settings{calls: allCalls, slipway: slipway, tmpfs: tmpfs, workers: runtime.NumCPU(), timeout: 5 * time.Minute, seed: 1, short: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	}()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			o := g.rounds(t.Context(), k)
			if o.skipped != nil {
				t.Skip(o.skipped)
			}
			for _, err := range o.failures {
				t.Error(err)
			}
			t.Log(o.line())
		})
	}
}

// Who is killed at a call does not make it.
func TestKillAt(t *testing.T) {
	if err := needStrace(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &round{dir: dir}
	words := append(r.killAt(writers[0], 1), "mv", from, to)
	var ended *exec.ExitError
	if err := exec.Command(words[0], words[1:]...).Run(); !errors.As(err, &ended) || ended.Success() {
		t.Errorf("mv was not killed: %v", err)
	}
	if _, err := os.Stat(from); err != nil {
		t.Errorf("it was killed after its call: %v", err)
	}
}

// The table of a file is replaced, and nothing else of it.
func TestWriteTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("before\n"+tableBegin+"old\n"+tableEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := kinds()[0]
	text := table([]outcome{{kind: k, rounds: 5, count: 7, failures: []error{errors.New("x")}}, {kind: k, skipped: errors.New("no strace")}}, true)
	for range 2 {
		if err := writeTable(file, text); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "before\n"+tableBegin+text+tableEnd+"after\n" {
		t.Errorf("the file is %q, %v", got, err)
	}
	for _, want := range []string{"| 5 | 7 kills | 1 rounds failed |", "| 0 | left out: no strace | - |"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table has no %q: %s", want, text)
		}
	}
}
