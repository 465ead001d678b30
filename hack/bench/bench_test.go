package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRowNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range catalogue() {
		if seen[r.name] || r.name == "" || r.n < 1 || r.make == nil {
			t.Errorf("row %q is unusable or there twice", r.name)
		}
		seen[r.name] = true
	}
	rows, err := choose("^context")
	if err != nil || len(rows) != 4 {
		t.Errorf("^context chose %d rows (%v), want 4", len(rows), err)
	}
	for _, bad := range []string{"no such row", "("} {
		if _, err := choose(bad); err == nil {
			t.Errorf("-run %q gave no error", bad)
		}
	}
}

func TestTimes(t *testing.T) {
	ms := func(n ...int) (o outcome) {
		for _, x := range n {
			o.times = append(o.times, time.Duration(x)*time.Millisecond)
		}
		return o
	}
	for _, tc := range []struct {
		o    outcome
		want string
	}{
		{ms(30, 10, 20), "10.0 ms / 20.0 ms"},
		{ms(4, 1, 2, 3), "1.00 ms / 2.50 ms"},
		{ms(1500), "1.50 s / 1.50 s"},
		{outcome{why: "not installed"}, "not installed"},
	} {
		if got := times(&tc.o); got != tc.want {
			t.Errorf("times of %v are %q, want %q", tc.o.times, got, tc.want)
		}
	}
	a, b, none := ms(30, 90), ms(20, 10), outcome{why: "failed"}
	if got := ratio(&a, &b); got != "3.00" {
		t.Errorf("ratio is %s, want 3.00", got)
	}
	if got := ratio(&a, &none); got != "-" {
		t.Errorf("ratio to nothing is %s, want -", got)
	}
	for n, want := range map[int64]string{7_500: "8 kB", 150_000_000: "150 MB", 2_500_000_000: "2.5 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) is %s, want %s", n, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	r := result{row: row{name: "r", goal: "under 1 x"}, what: "a | b", n: 1,
		slipway: outcome{times: []time.Duration{time.Second}, peak: 42e6},
		bound:   outcome{times: []time.Duration{2 * time.Second}},
		other:   outcome{why: "failed", err: errors.New("x")}}
	client := result{row: row{name: "c", goal: "1", client: true}, what: "x", slipway: outcome{times: []time.Duration{time.Second}, peak: 42e6},
		other: outcome{times: []time.Duration{2 * time.Second}, peak: 81e6}}
	var b bytes.Buffer
	warm := client
	warm.row, warm.bound = row{name: "w", goal: "10", warm: true}, outcome{times: []time.Duration{4 * time.Second}}
	if err := writeTable(&b, []result{warm, client, r}, true); err != nil {
		t.Fatal(err)
	}
	want := `| r | a \| b | 1.00 s / 1.00 s | 2.00 s / 2.00 s | 0.50 | failed | - | 42 | under 1 x |`
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 11 || lines[2] != want {
		t.Errorf("markdown is\n%s\nwant its last line\n%s", b.String(), want)
	}
	if want := `| c | x | 1.00 s / 1.00 s | 2.00 s / 2.00 s | 2.00 | 42 (81) | 1 |`; lines[6] != want {
		t.Errorf("markdown is\n%s\nwant its last line\n%s", b.String(), want)
	}
	if want := `| w | x | 1.00 s / 1.00 s | 4.00 s / 4.00 s | 2.00 s / 2.00 s | 0.50 | 2.00 | 10 |`; lines[10] != want {
		t.Errorf("markdown is\n%s\nwant its last line\n%s", b.String(), want)
	}
	for i, of := range map[int]row{0: {}, 1: {}, 4: {client: true}, 5: {client: true}, 8: {warm: true}, 9: {warm: true}} {
		if n, want := strings.Count(lines[i], "|"), len(columns(of))+1; n != want {
			t.Errorf("line %q has %d bars, want %d", lines[i], n, want)
		}
	}
}

func TestOwnPeak(t *testing.T) {
	if n := ownPeak(); n < 1<<20 || n > 1<<30 {
		t.Errorf("this process had %d bytes at most, want some megabytes", n)
	}
}

// testRoom is a room without a registry.
func testRoom(t *testing.T) *room {
	dir := t.TempDir()
	return &room{dir: dir, tmp: dir}
}

// recorder makes tasks that note their turns.
func recorder(turns *[]string, name string, fail bool) task {
	return task{
		before: func(_ context.Context, i int) error {
			*turns = append(*turns, fmt.Sprint(name, i))
			if fail {
				return errors.New("broken on purpose")
			}
			return nil
		},
		run: func(int) []command { return []command{{args: []string{"true"}}} },
	}
}

func TestTurns(t *testing.T) {
	m := testRoom(t)
	var turns []string
	res, err := m.run(t.Context(), row{name: "r", n: 2, make: func(context.Context, *place) (contest, error) {
		return contest{
			bound:   recorder(&turns, "bound", true),
			slipway: recorder(&turns, "slipway", false),
			buildah: recorder(&turns, "buildah", false),
		}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"bound0", "slipway0", "buildah0", "slipway1", "buildah1"}; !slices.Equal(turns, want) {
		t.Errorf("turns are %q, want %q", turns, want)
	}
	if len(res.slipway.times) != 2 || res.slipway.peak == 0 {
		t.Errorf("slipway has %d times and a peak of %d bytes", len(res.slipway.times), res.slipway.peak)
	}
	if res.bound.err == nil || res.bound.why != "failed" || len(res.bound.times) != 0 {
		t.Errorf("a failing task came to %+v", res.bound)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "rows", "r")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the row's directory is still there: %v", err)
	}
}

func TestExecTellsWhatFailed(t *testing.T) {
	_, err := testRoom(t).exec(t.Context(), shell("echo something is wrong >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "something is wrong") {
		t.Errorf("error is %v, want the command's output in it", err)
	}
}

func TestExecEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := testRoom(t).exec(ctx, shell("sleep 60 & wait")); err == nil {
		t.Error("an interrupted command gave no error")
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v to end a command", d)
	}
}

func TestWriteFiles(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if err := writeFiles(dir, 7, 3, 1000); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dirName(2), fileName(6))
	a, err := os.ReadFile(filepath.Join(one, name))
	if err != nil || len(a) != 1000 {
		t.Fatalf("the last file has %d bytes: %v", len(a), err)
	}
	b, err := os.ReadFile(filepath.Join(two, name))
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("two runs gave different bytes (%v)", err)
	}
}

func TestCopyTreeStops(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	if err := writeFiles(from, 10, 5, 1000); err != nil {
		t.Fatal(err)
	}
	stat, err := copyTree(from, to, 4500)
	if err != nil || stat.Files != 5 || stat.Bytes != 5000 {
		t.Errorf("copied %+v (%v), want 5 files", stat, err)
	}
}

func TestRemoveAllUnmounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := filepath.Join(t.TempDir(), "room")
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Skipf("mounting is not possible here: %v", err)
	}
	if err := removeAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory is still there: %v", err)
	}
}
