package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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

	l, err = createLog(filepath.Join(dir, "other"))
	must(err)
	_ = os.WriteFile(fill, make([]byte, 128<<10), 0o600)
	write("lost\n")
	if err := l.Close(); err == nil {
		t.Error("a log for which there was no space is whole")
	}
}
