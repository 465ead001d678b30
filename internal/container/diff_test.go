package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// asked is a tree that somebody else's changes as soon as a path of it is asked for.
type asked struct {
	layer.Tree
	name   string
	change func()
}

func (a *asked) Lstat(name string) (*layer.Entry, error) {
	if name == a.name {
		a.change()
	}
	return a.Tree.Lstat(name)
}

// What a container removes while it is compared is gone, or is as it was when it was listed.
func TestCompareWhatVanishes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("whiteouts need root")
	}
	const all = "A /gone, A /gone/in, A /stays"
	for name, tc := range map[string]struct {
		at     string
		change func(root string) error
		want   string
	}{
		"nothing":                   {"none", nil, all + ", C /was, A /was/in"},
		"removed":                   {"gone", func(root string) error { return os.RemoveAll(root + "/gone") }, "A /gone, A /stays, C /was, A /was/in"},
		"removed below":             {"gone/in", func(root string) error { return os.RemoveAll(root + "/gone") }, all + ", C /was, A /was/in"},
		"a whiteout in its place":   {"was", func(root string) error { return replaceByWhiteout(root + "/was") }, all + ", C /was, D /was/old"},
		"a link in its place":       {"gone", func(root string) error { return replaceByLink(root + "/gone") }, "A /gone, A /stays, C /was, A /was/in"},
		"removed before its hidden": {"was", func(root string) error { return os.RemoveAll(root + "/was") }, all + ", C /was, D /was/old"},
	} {
		lower, upper := t.TempDir(), t.TempDir()
		for _, dir := range []string{lower + "/was", upper + "/gone/in", upper + "/stays", upper + "/was/in"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(lower+"/was/old", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "hidden") || strings.Contains(name, "whiteout") {
			if err := unix.Setxattr(upper+"/was", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
				t.Fatal(err)
			}
		}
		below := &asked{layer.OpenDir(lower, layer.DirOptions{Overlay: true, Immutable: true}), tc.at, func() {
			if err := tc.change(upper); err != nil {
				t.Error(err)
			}
		}}
		got, err := compare(t.Context(), below, layer.OpenDir(upper, layer.DirOptions{Overlay: true, Live: true}))
		if err != nil || changeText(got) != tc.want {
			t.Errorf("%s: %s, %v, want %s", name, changeText(got), err, tc.want)
		}
	}
}

func replaceByWhiteout(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return unix.Mknod(path, unix.S_IFCHR, 0)
}

func replaceByLink(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Symlink("/etc", path)
}

func changeText(changes []Change) string {
	var all []string
	for _, c := range changes {
		all = append(all, fmt.Sprintf("%s %s", c.Kind, c.Path))
	}
	return strings.Join(all, ", ")
}

// A directory in the place of an image's file has something in it.
func TestCompareDirectoryForFile(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(lower, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(upper, "x", "y"), 0o755); err != nil {
		t.Fatal(err)
	}
	below := layer.Merged([]layer.Tree{layer.OpenDir(lower, layer.DirOptions{Overlay: true, Immutable: true})})
	got, err := compare(t.Context(), below, layer.OpenDir(upper, layer.DirOptions{Overlay: true, Live: true}))
	if want := "C /x, A /x/y"; err != nil || changeText(got) != want {
		t.Errorf("%s, %v, want %s", changeText(got), err, want)
	}
}
