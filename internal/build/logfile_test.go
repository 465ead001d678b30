package build

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// A log goes on when there is space again, and tells how much is missing; one that has none at its end is an error.
func TestLogOnFullDisk(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	must(unix.Mount("none", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(unix.Unmount(dir, unix.MNT_DETACH)) })
	l, err := createLog(filepath.Join(dir, "log"))
	must(err)
	write := func(text string) {
		t.Helper()
		_, err := l.Write([]byte(text))
		must(err)
	}
	fill := filepath.Join(dir, "fill")
	write("before\n")
	_ = os.WriteFile(fill, make([]byte, 128<<10), 0o600) // fails, and leaves no space
	write(strings.Repeat("x", 5000))
	write("lost\n")
	must(os.Remove(fill))
	write("after\n")
	must(l.Close())
	data, err := os.ReadFile(l.path)
	must(err)
	if want := "before\n" + (&logFile{lost: 5000}).note() + "lost\nafter\n"; string(data) != want {
		t.Errorf("the log has %d bytes, %.100q, want %q", len(data), data, want)
	}
	must(os.Remove(l.path))

	// One that is compressed leaves nothing out.
	must(unix.Mount("none", dir, "", unix.MS_REMOUNT, "size=2m"))
	fillUp := func() { _ = os.WriteFile(fill, make([]byte, 4<<20), 0o600) }
	for _, before := range []int{1, 2} { // of 1 MiB each: the second one makes it a compressed one
		l, err = createLog(filepath.Join(dir, "long"))
		must(err)
		noise := strings.Repeat("many words\n", plainLog/11)
		for range before {
			write(noise)
		}
		fillUp()
		for range 4 {
			write(noise)
		}
		must(os.Remove(fill))
		write("after\n")
		must(l.Close())
		f, err := os.Open(l.path + ".gz")
		must(err)
		zip, err := gzip.NewReader(f)
		must(err)
		data, err := io.ReadAll(zip)
		must(errors.Join(err, f.Close(), os.Remove(f.Name())))
		if want := strings.Repeat(noise, before+4) + "after\n"; string(data) != want {
			t.Errorf("after %d: the log has %d bytes, want %d", before, len(data), len(want))
		}
	}

	l, err = createLog(filepath.Join(dir, "other"))
	must(err)
	fillUp()
	write("lost\n")
	if err := l.Close(); err == nil {
		t.Error("a log for which there was no space is whole")
	}
}
