package logfile

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// all is what a log has.
func all(t *testing.T, path string, o Options) (texts []string) {
	t.Helper()
	err := Read(t.Context(), path, o, func(e *Entry) error {
		texts = append(texts, e.Stream+": "+string(e.Bytes()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func both() Options { return Options{Stdout: true, Stderr: true, Tail: -1} }

// TestLog writes lines in pieces, and half a one at the end.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(path, DefaultSize)
	if err != nil {
		t.Fatal(err)
	}
	out, errs := w.Stream(Stdout), w.Stream(Stderr)
	fmt.Fprint(out, "one\ntw")
	fmt.Fprint(errs, "bad\n")
	fmt.Fprint(out, "o\nhalf")
	out.Flush()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(all(t, path, both()), "|"), "stdout: one\n|stderr: bad\n|stdout: two\n|stdout: half"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	o := both()
	o.Tail = 1
	if got := all(t, path, o); len(got) != 1 || got[0] != "stdout: half" {
		t.Errorf("the last one is %q", got)
	}
	o = both()
	o.Since = time.Now().Add(time.Hour)
	if got := all(t, path, o); len(got) != 0 {
		t.Errorf("since an hour from now there is %q", got)
	}
}

// TestHostileText: nothing that is printed is read as another line, and all of it comes back.
func TestHostileText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(path, DefaultSize)
	if err != nil {
		t.Fatal(err)
	}
	hostile := []byte("\"}\r{\"log\":\"forged\",\"stream\":\"stderr\"}\n\x00\xff\xfe\x1b[2J\n" + strings.Repeat("x", 3*maxText) + "\n\u2028<&>\n")
	out := w.Stream(Stdout)
	if _, err := out.Write(hostile); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err = Read(t.Context(), path, both(), func(e *Entry) error {
		if e.Stream != Stdout {
			t.Errorf("there is a line of %s: %q", e.Stream, e.Log)
		}
		got.Write(e.Bytes())
		return nil
	})
	if err != nil || !bytes.Equal(got.Bytes(), hostile) {
		t.Errorf("got %q, %v", got.Bytes(), err)
	}
}

// TestBounds: a log has two files, each no larger than it may be.
func TestBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const size = 4 << 10
	w, err := Open(path, size)
	if err != nil {
		t.Fatal(err)
	}
	out := w.Stream(Stdout)
	for i := range 1000 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 {
		t.Fatalf("there are %q, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > size {
			t.Errorf("%s: %v, %v", f, info.Size(), err)
		}
	}
	got := all(t, path, both())
	if n := len(got); n < 20 || got[n-1] != "stdout: line 999\n" {
		t.Errorf("%d lines are left, the last ones are %q", n, got[max(0, n-2):])
	}
	for i := 1; i < len(got); i++ {
		var a, b int
		fmt.Sscanf(got[i-1], "stdout: line %d", &a)
		fmt.Sscanf(got[i], "stdout: line %d", &b)
		if b != a+1 {
			t.Fatalf("after line %d there is line %d", a, b)
		}
	}
}

// TestTorn: half a line of a killed process is left out, and spoils nothing that is written after it.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(`{"log":"ha`), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(path, DefaultSize)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w.Stream(Stdout), "whole")
	if got := all(t, path, both()); len(got) != 1 || got[0] != "stdout: whole\n" {
		t.Errorf("got %q", got)
	}
}

// TestFollow follows a log over several files, to its end.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const size, lines = 64 << 10, 3000
	w, err := Open(path, size)
	if err != nil {
		t.Fatal(err)
	}
	var alive atomic.Bool
	alive.Store(true)
	seen := make(chan int, lines)
	var reader sync.WaitGroup
	reader.Go(func() {
		o := both()
		o.Follow, o.Alive = true, alive.Load
		if err := Read(context.Background(), path, o, func(e *Entry) error {
			var n int
			_, err := fmt.Sscanf(e.Log, "line %d", &n)
			seen <- n
			return err
		}); err != nil {
			t.Error(err)
		}
		close(seen)
	})
	out := w.Stream(Stdout)
	for i := range lines {
		fmt.Fprintf(out, "line %d\n", i)
		if i%200 == 0 { // it is no slower than a file for each look
			for n := range seen {
				if n == i {
					break
				}
			}
		}
	}
	alive.Store(false)
	last := -1
	for n := range seen {
		last = n
	}
	if reader.Wait(); last != lines-1 {
		t.Errorf("the last line seen is %d", last)
	}
}

// TestAppend: several processes write to one log, of which nothing is lost but what is old.
func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var writers sync.WaitGroup
	for k := range 8 {
		writers.Go(func() {
			for i := range 300 {
				if err := Append(path, 8<<10, Entry{Log: fmt.Sprint(k, " ", i), Stream: Stdout, Time: time.Now()}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	got := all(t, path, both())
	last := map[int]int{}
	for _, text := range got {
		var k, i int
		fmt.Sscanf(text, "stdout: %d %d", &k, &i)
		if before, ok := last[k]; ok && i != before+1 {
			t.Errorf("of writer %d, %d follows %d", k, i, before)
		}
		last[k] = i
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 || len(got) < 80 { // a file has more
		t.Errorf("%d lines are left in %q, %v", len(got), files, err)
	}
}

// TestNoSpace: of what does not fit on the disk a line is lost at most that came, and none of those that come when there is room again.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small filesystem: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path, full := filepath.Join(dir, "log"), filepath.Join(dir, "full")
	w, err := Open(path, DefaultSize)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out := w.Stream(Stdout)
	fmt.Fprintln(out, "before")
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the filesystem has room")
	}
	for range 8 {
		fmt.Fprintln(out, strings.Repeat("x", 1000))
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(out, "after")
	got := all(t, path, both())
	if got[0] != "stdout: before\n" || got[len(got)-1] != "stdout: after\n" {
		t.Errorf("got %q", got)
	}
}
