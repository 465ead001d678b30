// Package layertest checks implementations of package layer's contracts.
package layertest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// Tree checks that a tree keeps what [layer.Tree] promises, on everything that it holds. It
// should hold directories, files, symbolic links to directories, and nested ones of each.
func Tree(t *testing.T, tree layer.Tree) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			directory(t, tree, ".")
		}()
	}
	wg.Wait()
	for _, p := range []string{"no such name", "no/such/name"} {
		if e, err := tree.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lstat(%q) = %+v, %v, want fs.ErrNotExist", p, e, err)
		}
		if l, err := tree.ReadDir(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("ReadDir(%q) = %v, %v, want fs.ErrNotExist", p, l, err)
		}
	}
}

func directory(t *testing.T, tree layer.Tree, dir string) {
	e, err := tree.Lstat(dir)
	if err != nil || !e.IsDir() || e.Path != dir {
		t.Errorf("Lstat(%q) = %+v, %v, want a directory", dir, e, err)
		return
	}
	list, err := tree.ReadDir(dir)
	if err != nil {
		t.Errorf("ReadDir(%q): %v", dir, err)
		return
	}
	last := ""
	for _, e := range list {
		if e.Path <= last {
			t.Errorf("ReadDir(%q): %q comes after %q", dir, e.Path, last)
		}
		last = e.Path
		base, ok := e.Path, true
		if dir != "." {
			base, ok = strings.CutPrefix(e.Path, dir+"/")
		}
		if !ok || base == "" || strings.Contains(base, "/") {
			t.Errorf("ReadDir(%q) gives %q", dir, e.Path)
		}
		same(t, tree, e)
		object(t, tree, e)
	}
}

// same checks that Lstat gives what ReadDir gave.
func same(t *testing.T, tree layer.Tree, e *layer.Entry) {
	l, err := tree.Lstat(e.Path)
	if err != nil {
		t.Errorf("Lstat(%q): %v, but it is listed", e.Path, err)
		return
	}
	a, b := *l, *e
	if (a.Content == nil) != (b.Content == nil) {
		t.Errorf("%q has content by one way only", e.Path)
	}
	a.Content, b.Content = nil, nil
	if !a.ModTime.Equal(b.ModTime) {
		t.Errorf("%q is of %v by Lstat, of %v by ReadDir", e.Path, a.ModTime, b.ModTime)
	}
	a.ModTime = b.ModTime
	if !reflect.DeepEqual(a, b) {
		t.Errorf("Lstat gives  %+v\nReadDir gives %+v", a, b)
	}
}

func object(t *testing.T, tree layer.Tree, e *layer.Entry) {
	if e.Hardlink {
		t.Errorf("%q is shown as a hard link: in a tree it is a file", e.Path)
	}
	if e.IsDir() {
		directory(t, tree, e.Path)
		return
	}
	if l, err := tree.ReadDir(e.Path); err == nil {
		t.Errorf("ReadDir(%q) = %v of what is no directory", e.Path, l)
	}
	for _, below := range []string{"/a", "/x/y"} {
		if l, err := tree.Lstat(e.Path + below); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("Lstat(%q) = %+v, %v below what is no directory", e.Path+below, l, err)
		}
	}
	if e.IsRegular() {
		content(t, e)
	}
}

// content opens a file twice at the same time.
func content(t *testing.T, e *layer.Entry) {
	if (e.Content == nil) != (e.Size == 0) {
		t.Errorf("%q has %d bytes and content %v", e.Path, e.Size, e.Content)
		return
	}
	a, err := layer.OpenContent(e)
	if err != nil {
		t.Errorf("opening %q: %v", e.Path, err)
		return
	}
	defer a.Close()
	b, err := layer.OpenContent(e)
	if err != nil {
		t.Errorf("opening %q again: %v", e.Path, err)
		return
	}
	defer b.Close()
	x, err1 := io.ReadAll(a)
	y, err2 := io.ReadAll(b)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) || int64(len(x)) != e.Size {
		t.Errorf("%q of %d bytes gives %d and %d: %v", e.Path, e.Size, len(x), len(y), err)
	}
}
