package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	if testing.Short() {
		t.Skip("long: stores that are killed, starved and damaged")
	}
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
	g, err := newGround(t.Context(), settings{calls: anything, deeds: anything, places: anything, slipway: slipway, tmpfs: tmpfs, workers: runtime.NumCPU(), timeout: 5 * time.Minute, seed: 1, short: true})
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
	for _, files := range [][]string{nil, {from}} {
		words := append(r.killAt(writers[0], 1, files...), "mv", from, to)
		var ended *exec.ExitError
		if err := exec.Command(words[0], words[1:]...).Run(); !errors.As(err, &ended) || ended.Success() {
			t.Errorf("%q: mv was not killed: %v", files, err)
		}
		if _, err := os.Stat(from); err != nil {
			t.Errorf("%q: it was killed after its call: %v", files, err)
		}
	}
	words := append(r.killAt(writers[0], 1, filepath.Join(dir, "other")), "mv", from, to)
	if err := exec.Command(words[0], words[1:]...).Run(); err != nil {
		t.Errorf("mv was killed at a call about another file: %v", err)
	}
}

// The edits of the planted defects are to the sources as they are, and what they give is Go.
func TestDefects(t *testing.T) {
	changed, err := plantedSources("../..")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range changed {
		if _, err := parser.ParseFile(token.NewFileSet(), file, text, 0); err != nil {
			t.Error(err)
		}
	}
	names := map[string]bool{}
	for _, k := range kinds() {
		names[k.name] = true
	}
	for _, d := range defects {
		if !names[d.kind] {
			t.Errorf("%s is for rounds of %q, which there are none of", d.name, d.kind)
		}
		if _, err := regexp.Compile(d.tells); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
	}
}

// What the model of a loss of power keeps, and what not.
func TestPower(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	if err := needDisk(); err != nil {
		t.Skip(err)
	}
	for _, fs := range here() {
		t.Run(fs.name, func(t *testing.T) {
			dir := t.TempDir()
			d := newDisk(dir, fs)
			w, err := newWitness(dir)
			if err == nil {
				err = d.make()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := errors.Join(w.close(), d.unmount()); err != nil {
					t.Error(err)
				}
			}()
			at := func(name string) string { return filepath.Join(d.mount, name) }
			data := bytes.Repeat([]byte("data"), 20_000)
			write := func(name string) {
				if err := errors.Join(os.MkdirAll(filepath.Dir(at(name)), 0o755), os.WriteFile(at(name), data, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			// Somebody's sync of all disks that was under way before a round began may keep what would be lost, and is not seen:
			// what is to be lost has to be in one of the rounds.
			kept := false
			for range 20 {
				write("a/old")
				if err := errors.Join(w.begin(), tool("sync", "-f", d.mount), os.Rename(at("a/old"), at("a/new"))); err != nil {
					t.Fatal(err)
				}
				write("a/lost")
				write("b/kept")
				if err := syncFile(at("b/kept")); err != nil {
					t.Fatal(err)
				}
				undisturbed := w.undisturbed()
				if err := d.lose(); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(at("b/kept")); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("a file that was synced is %d bytes, %v", len(got), err)
				}
				lost, _ := os.ReadFile(at("a/lost"))
				_, err := os.Stat(at("a/new"))
				ordered := fs.mkfs[0] == ext4[0]
				if ordered && err != nil {
					t.Fatalf("a rename before the sync of another file: %v", err)
				}
				if !bytes.Equal(lost, data) && (err == nil) == ordered {
					return
				}
				kept = kept || undisturbed
				if err := os.RemoveAll(at("a")); err != nil {
					t.Fatal(err)
				}
			}
			if kept {
				t.Fatal("a file that was not synced, or a rename on a filesystem that does not keep their order, is never lost")
			}
			t.Skip("somebody on this machine syncs all disks, again and again: nothing can be lost")
		})
	}
}

// The table of a file is replaced, and nothing else of it.
func TestWriteTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("before\n"+doneTable+"old\n"+tableEnd+"between\n"+plantedTable+"old\n"+tableEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := kinds()[0]
	text := table(doneRows([]outcome{{kind: k, rounds: 5, count: 7, failures: []error{errors.New("x")}}, {kind: k, skipped: errors.New("no strace")}}), true)
	planted := table(plantedRows([]planting{{defect: defects[0], rounds: 3}, {defect: defects[1], rounds: 9, err: errors.New("x")}}), true)
	for range 2 {
		if err := errors.Join(writeTable(file, doneTable, text), writeTable(file, plantedTable, planted)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != "before\n"+doneTable+text+tableEnd+"between\n"+plantedTable+planted+tableEnd+"after\n" {
		t.Errorf("the file is %q, %v", got, err)
	}
	for _, want := range []string{"| 5 | 7 kills | 1 rounds failed |", "| 0 | left out: no strace | - |"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table has no %q: %s", want, text)
		}
	}
}
