package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// slowTree counts how often each directory is read, and takes its time.
type slowTree struct {
	Tree
	wait time.Duration

	mu   sync.Mutex
	read map[string]int
}

func (s *slowTree) ReadDir(name string) ([]*Entry, error) {
	s.mu.Lock()
	s.read[name]++
	s.mu.Unlock()
	time.Sleep(s.wait)
	return s.Tree.ReadDir(name)
}

func (s *slowTree) times(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read[name]
}

// walkAhead walks a tree as its readers do.
func walkAhead(a *DirsAhead, dir string, fn func(*Entry)) error {
	list, err := a.ReadDir(dir)
	if err != nil {
		return err
	}
	var dirs []string
	for _, e := range list {
		if e.IsDir() {
			dirs = append(dirs, e.Path)
		}
	}
	a.Expect(dirs)
	for _, e := range list {
		fn(e)
		if e.IsDir() {
			if err := walkAhead(a, e.Path, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reading ahead gives every directory once, in the same order.
func TestDirsAhead(t *testing.T) {
	var names []string
	for i := range 5 * maxDirsAhead {
		names = append(names, fmt.Sprintf("%d/%d/%d/f", i%7, i%11, i), fmt.Sprintf("%d/g", i))
	}
	dir := makeFiles(t, names...)
	var want []string
	if err := Walk(OpenDir(dir, DirOptions{}), ".", func(e *Entry) error {
		want = append(want, e.Path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, wait := range []time.Duration{0, time.Microsecond} {
		tree := &slowTree{Tree: OpenDir(dir, DirOptions{}), wait: wait, read: map[string]int{}}
		a := ReadDirsAhead(tree)
		got := []string{"."}
		if err := walkAhead(a, ".", func(e *Entry) { got = append(got, e.Path) }); err != nil {
			t.Fatal(err)
		}
		a.Close()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("another order: %d entries, want %d", len(got), len(want))
		}
		for name, n := range tree.read {
			if n != 1 {
				t.Errorf("%s was read %d times", name, n)
			}
		}
		if a.unread != 0 || len(a.known) != 0 {
			t.Errorf("%d were not asked for, %d forgotten", a.unread, len(a.known))
		}
	}
}

// No more is read ahead than the bound says, and nothing after Close.
func TestDirsAheadIsBounded(t *testing.T) {
	var names []string
	for i := range 3 * maxDirsAhead {
		names = append(names, fmt.Sprintf("%03d/f", i))
	}
	dir := makeFiles(t, names...)
	tree := &slowTree{Tree: OpenDir(dir, DirOptions{}), read: map[string]int{}}
	a := ReadDirsAhead(tree)
	for i := range names {
		names[i] = filepath.Dir(names[i])
	}
	a.Expect(names)
	a.wg.Wait()
	if len(tree.read) != maxDirsAhead {
		t.Errorf("%d directories were read ahead, want %d", len(tree.read), maxDirsAhead)
	}
	for i := range 10 { // those that come first were read first
		if _, err := a.ReadDir(names[i]); err != nil || tree.times(names[i]) != 1 {
			t.Errorf("%s: %v, read %d times", names[i], err, tree.times(names[i]))
		}
	}
	a.Close()
	n := len(tree.read)
	a.Expect(names)
	a.wg.Wait()
	if len(tree.read) != n {
		t.Error("directories are read after Close")
	}
}

// An error comes where its directory is asked for.
func TestDirsAheadError(t *testing.T) {
	a := ReadDirsAhead(OpenDir(makeFiles(t, "a/f", "c/f"), DirOptions{}))
	defer a.Close()
	a.Expect([]string{"a", "b", "c"})
	for name, want := range map[string]error{"a": nil, "b": fs.ErrNotExist, "c": nil} {
		if _, err := a.ReadDir(name); !errors.Is(err, want) {
			t.Errorf("reading %s: %v, want %v", name, err, want)
		}
	}
}
