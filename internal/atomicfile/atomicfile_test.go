package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// names are those in a directory.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path, fixed := filepath.Join(dir, "file"), filepath.Join(dir, "file.new")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o644), os.WriteFile(fixed, []byte("of one that was killed"), 0o644)); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for text, o := range map[string]Options{"beside": {Mode: 0o640}, "fixed": {Temporary: fixed, Mode: 0o640, Sync: true}} {
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		err = Write(path, o, func(f *os.File) error {
			if _, err := f.WriteString(text); err != nil {
				return err
			}
			if seen, err := os.ReadFile(path); err != nil || string(seen) != string(before) {
				t.Errorf("%s: while it is written there is %q, %v", text, seen, err)
			}
			return nil
		})
		fi, serr := os.Stat(path)
		if err := errors.Join(err, serr); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text || fi.Mode() != 0o640 {
			t.Errorf("%s: got %q, %v, %v", text, got, fi.Mode(), err)
		}
	}
	broken := errors.New("broken")
	if err := Write(path, Options{Temporary: fixed, Mode: 0o600}, func(f *os.File) error { return broken }); err != broken {
		t.Errorf("got %v", err)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"file"}) {
		t.Errorf("these are left: %q", left)
	}
	if text := make([]byte, 8); true {
		if n, _ := old.Read(text); string(text[:n]) != "old" {
			t.Errorf("who had the old one open reads %q", text[:n])
		}
	}
	// A link in the place of what is temporary is not followed.
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(other, []byte("other"), 0o600), os.Symlink(other, fixed)); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Options{Temporary: fixed, Mode: 0o600}, func(f *os.File) error { _, err := f.WriteString("text"); return err }); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(other); err != nil || string(got) != "other" {
		t.Errorf("the link was followed: %q, %v", got, err)
	}
}

// TestCommitAgain: a file that could not get its name can get it later.
func TestCommitAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := Create(path, Options{Mode: 0o600, Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EISDIR) {
		t.Errorf("in the place of a directory: %v", err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); err != nil {
		t.Error(err)
	}
}

func TestReplaceDir(t *testing.T) {
	dir := t.TempDir()
	path, fresh := filepath.Join(dir, "dir"), filepath.Join(dir, ".new")
	for _, name := range []string{"one", "two"} {
		if err := errors.Join(os.Mkdir(fresh, 0o700), os.WriteFile(filepath.Join(fresh, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := ReplaceDir(fresh, path); err != nil {
			t.Fatal(err)
		}
		if got := names(t, path); !slices.Equal(got, []string{name}) {
			t.Errorf("it has %q, want %s alone", got, name)
		}
	}
	if left := names(t, dir); !slices.Equal(left, []string{"dir"}) {
		t.Errorf("these are left: %q", left)
	}
	if err := ReplaceDir(fresh, path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	// Who looks meanwhile finds one or the other.
	var watcher sync.WaitGroup
	done := make(chan struct{})
	watcher.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := os.Stat(filepath.Join(path, "two")); err != nil {
				t.Errorf("while it is replaced: %v", err)
				return
			}
		}
	})
	for range 500 {
		if err := errors.Join(os.Mkdir(fresh, 0o700), os.WriteFile(filepath.Join(fresh, "two"), nil, 0o600), ReplaceDir(fresh, path)); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	watcher.Wait()
	if got := names(t, path); !slices.Equal(got, []string{"two"}) {
		t.Errorf("then it has %q", got)
	}
}

// A file whose content may not be on the disk gets no name, however often that is tried.
func TestCommitAfterAFailedSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := Create(path, Options{Mode: 0o600, Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if err := f.File.Close(); err != nil { // so that Sync fails
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Commit(); err == nil {
			t.Error("what was not synced has a name")
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}
