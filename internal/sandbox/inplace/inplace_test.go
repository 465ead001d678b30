package inplace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// files makes files and directories (whose names end in a slash) below a directory.
func files(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		name, text, _ := strings.Cut(name, "=")
		path := filepath.Join(dir, name)
		target, link := strings.CutPrefix(text, "-> ")
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// listing tells what is below a directory, but what is below one of those that are left out.
func listing(t *testing.T, dir string, without ...string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if slices.Contains(without, rel) {
			return fs.SkipDir
		}
		if rel == "." { // the root's time tells nothing
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d %d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Nano())
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			line += fmt.Sprintf(" %d", st.Nlink)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", text)
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// names are the paths of a listing.
func names(list []string) (all []string) {
	for _, line := range list {
		name, _, _ := strings.Cut(line, " ")
		all = append(all, name)
	}
	return all
}

// container makes a root directory as a container has it, and layers of an image.
func container(t *testing.T) (opt Options, base string) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	files(t, root, "bin/sh=host", "etc/passwd=host", "etc/ssl/cert=host", "var/lib/store/layer=pinned", "var/lib/other=host", "var/tmp/", "work/src=pinned",
		"home/u=host", "run=-> var/tmp")
	if err := os.Link(filepath.Join(root, "var/lib/other"), filepath.Join(root, "var/lib/same")); err != nil {
		t.Fatal(err)
	}
	old := unix.NsecToTimeval(1e18)
	for _, name := range []string{"etc", "var", "var/lib", "var/lib/store"} {
		if err := unix.Utimes(filepath.Join(root, name), []unix.Timeval{old, old}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "var"), 0o711); err != nil {
		t.Fatal(err)
	}
	base = filepath.Join(dir, "base")
	files(t, base, "bin/sh=image", "bin/tool=image", "etc/passwd=image", "etc/resolv.conf=image", "var/lib/dpkg/status=image", "var/cache/a=image", "opt/d/e/f=image", "opt/g=image")
	if err := errors.Join(os.Link(filepath.Join(base, "bin/tool"), filepath.Join(base, "top")), os.Chmod(filepath.Join(base, "var"), 0o750)); err != nil {
		t.Fatal(err)
	}
	return Options{Root: root, Dir: filepath.Join(root, ".slipway"), Pinned: []string{filepath.Join(root, "var/lib/store"), filepath.Join(root, "work")}}, base
}

// enter shows a tree of layers, with some mounts.
func enter(m *Machine, lower ...string) (*Tree, *View, error) {
	tree, err := m.Tree(lower)
	if err != nil {
		return nil, nil, err
	}
	v, err := m.Enter(context.Background(), tree)
	if err != nil {
		return tree, nil, err
	}
	return tree, v, errors.Join(v.File("/etc/resolv.conf", "mounted", 0o644), v.Directory("/mnt/new/tmpfs", 0o700), v.Link("/run/secrets/s", "/dev/null"), v.Settle())
}

// TestView: a step sees the image, what is pinned, and its mounts; nothing of these is in the layer that becomes of it, and
// the container is as it was.
func TestView(t *testing.T) {
	opt, base := container(t)
	before := listing(t, opt.Root, ".slipway")
	m, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	tree, v, err := enter(m, base)
	if err != nil {
		t.Fatal(err)
	}
	seen := names(listing(t, opt.Root, ".slipway"))
	want := []string{"bin", "bin/sh", "bin/tool", "etc", "etc/passwd", "etc/resolv.conf", "mnt", "mnt/new", "mnt/new/tmpfs", "opt", "opt/d", "opt/d/e", "opt/d/e/f", "opt/g",
		"run", "run/secrets", "run/secrets/s", "top", "var", "var/cache", "var/cache/a", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status", "var/lib/store", "var/lib/store/layer", "work", "work/src"}
	if !slices.Equal(seen, want) {
		t.Errorf("a step sees %v,\nwant %v", seen, want)
	}
	if info, err := os.Stat(filepath.Join(opt.Root, "var")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("/var is %v, %v; want the image's mode", info.Mode(), err)
	}
	// The step.
	files(t, opt.Root, "etc/new=1", "var/lib/dpkg/status=longer", "mnt/new/tmpfs/gone=1", "run/secrets/x=kept", "var/cache/b=1")
	path := func(name string) string { return filepath.Join(opt.Root, name) }
	err = errors.Join(os.Remove(path("var/cache/b")), os.RemoveAll(path("opt/d")), os.Mkdir(path("opt/d"), 0o755), os.WriteFile(path("opt/d/h"), nil, 0o600),
		os.Remove(path("run/secrets/s")), os.WriteFile(path("run/secrets/s"), []byte("secret"), 0o600), os.Chmod(path("top"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	upper := t.TempDir()
	if err := errors.Join(v.Leave(), tree.Save([]string{base}, upper, v)); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, opt.Root, ".slipway"); !slices.Equal(before, after) {
		t.Errorf("the container is\n%s\nwant\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	changed := names(listing(t, upper))
	if want := []string{"etc", "etc/new", "opt", "opt/d", "opt/d/h", "run", "run/secrets", "run/secrets/x", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status"}; !slices.Equal(changed, want) {
		t.Errorf("the layer has %v,\nwant %v", changed, want)
	}
	if value := make([]byte, 9); os.Geteuid() == 0 {
		if n, err := unix.Getxattr(filepath.Join(upper, "opt/d"), "user.overlay.opaque", value); err != nil || string(value[:n]) != "y" {
			t.Errorf("a directory that was made again is not opaque: %q, %v", value[:n], err)
		}
	}
	tree.Release()
	// The next step goes on where this one was, whatever path the layer has by now.
	moved := filepath.Join(t.TempDir(), "layer")
	if err := os.Rename(upper, moved); err != nil {
		t.Fatal(err)
	}
	next, err := m.Tree([]string{base, moved})
	if err != nil || next != tree {
		t.Errorf("got another tree, %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(next.path, "etc/resolv.conf")); string(got) != "image" {
		t.Errorf("what was put aside is %q", got)
	}
	next.Release()
	// Another one on the same base does not.
	other, err := m.Tree([]string{base})
	if err != nil || other == tree {
		t.Errorf("got the same tree for other layers, %v", err)
	}
	other.Release()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if left := names(listing(t, opt.Dir)); !slices.Equal(left, []string{"lock"}) {
		t.Errorf("%v is left", left)
	}
}

// TestApplied: layers on top of those that a tree has are put on it.
func TestApplied(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("marks of layers need root")
	}
	opt, base := container(t)
	m, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tree, err := m.Tree([]string{base})
	if err != nil {
		t.Fatal(err)
	}
	tree.Release()
	top := t.TempDir()
	files(t, top, "opt/d/only=1", "etc/passwd/dir=1", "new=1")
	err = errors.Join(unix.Setxattr(filepath.Join(top, "opt/d"), "user.overlay.opaque", []byte("y"), 0), unix.Mknod(filepath.Join(top, "bin"), unix.S_IFCHR, 0))
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Tree([]string{base, top})
	if err != nil || again != tree {
		t.Fatalf("got another tree, %v", err)
	}
	got := t.TempDir()
	w, err := layer.NewDirWriter(got)
	if err == nil {
		err = errors.Join(layer.WriteTree(m.merged([]string{base, top}), w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	have, want := names(listing(t, tree.path)), names(listing(t, got))
	if !slices.Equal(have, want) {
		t.Errorf("the tree has %v,\nwant %v", have, want)
	}
}

// killVariable has this program show a tree and put it away again, and kill itself after so many moves.
const killVariable = "SLIPWAY_TEST_MOVES"

func TestMain(m *testing.M) {
	text := os.Getenv(killVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	moves, _ := strconv.Atoi(text)
	afterMove = func() {
		if moves--; moves == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	machine, err := Open(context.Background(), Options{Root: os.Args[1], Dir: filepath.Join(os.Args[1], ".slipway"), Pinned: os.Args[3:]})
	if err == nil {
		var v *View
		var tree *Tree
		if tree, v, err = enter(machine, os.Args[2]); err == nil {
			err = errors.Join(os.WriteFile(filepath.Join(os.Args[1], "etc/new"), nil, 0o644), os.Mkdir(filepath.Join(os.Args[1], "made"), 0o755), v.Leave())
			tree.Release()
		}
		err = errors.Join(err, machine.Close())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// TestKilled: whenever a process is killed, the next one finds the container as it was.
func TestKilled(t *testing.T) {
	opt, base := container(t)
	before := listing(t, opt.Root, ".slipway")
	moves := 1
	for ; ; moves++ {
		cmd := exec.Command("/proc/self/exe", append([]string{opt.Root, base}, opt.Pinned...)...)
		cmd.Env = append(os.Environ(), killVariable+"="+strconv.Itoa(moves))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 0) {
			t.Fatalf("after %d moves: %v: %s", moves, err, out)
		}
		m, oerr := Open(context.Background(), opt)
		if oerr != nil {
			t.Fatalf("after %d moves: %v", moves, oerr)
		}
		if after := listing(t, opt.Root, ".slipway"); !slices.Equal(before, after) {
			t.Fatalf("after %d moves the container is\n%s\nwant\n%s", moves, strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if left := names(listing(t, opt.Dir)); !slices.Equal(left, []string{"lock"}) {
			t.Fatalf("after %d moves %v is left", moves, left)
		}
		if err == nil {
			break
		}
	}
	if moves < 20 {
		t.Errorf("only %d moves were made", moves)
	}
}

// TestMovedSecret: a secret is nowhere when the step has ended, and a step that has put it elsewhere has no layer.
func TestMovedSecret(t *testing.T) {
	for _, how := range []string{"left", "moved", "linked", "replaced"} {
		opt, base := container(t)
		m, err := Open(context.Background(), opt)
		if err != nil {
			t.Fatal(err)
		}
		tree, v, err := enter(m, base)
		if err == nil {
			err = errors.Join(v.Secret("/etc/ssl/key", []byte("word"), 0o400, os.Geteuid(), os.Getegid()), v.Settle())
		}
		if err != nil {
			t.Fatal(err)
		}
		key, other := filepath.Join(opt.Root, "etc/ssl/key"), filepath.Join(opt.Root, "opt/d/kept")
		if text, err := os.ReadFile(key); err != nil || string(text) != "word" {
			t.Errorf("a step reads %q, %v", text, err)
		}
		switch how {
		case "moved":
			err = os.Rename(key, other)
		case "linked":
			err = os.Link(key, other)
		case "replaced":
			err = errors.Join(os.Remove(key), os.WriteFile(key, []byte("word of it"), 0o600))
		}
		if err = errors.Join(err, v.Leave()); err != nil {
			t.Fatal(err)
		}
		upper := t.TempDir()
		err = tree.Save([]string{base}, upper, v)
		if fails := how == "moved" || how == "linked"; (err != nil) != fails {
			t.Errorf("%s: got %v", how, err)
		}
		if text, err := os.ReadFile(filepath.Join(tree.path, "opt/d/kept")); err == nil && string(text) == "word" {
			t.Errorf("%s: it is still there", how)
		}
		for _, dir := range []string{upper, tree.path} {
			if _, err := os.Lstat(filepath.Join(dir, "etc/ssl/key")); err == nil {
				t.Errorf("%s: it is in %s", how, dir)
			}
		}
		tree.Drop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRootMode: what a step does to the root directory itself does not outlive it.
func TestRootMode(t *testing.T) {
	opt, base := container(t)
	if err := os.Chmod(opt.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tree, v, err := enter(m, base)
	if err == nil {
		err = errors.Join(os.Chmod(opt.Root, 0o700), v.Leave())
	}
	if err != nil {
		t.Fatal(err)
	}
	tree.Release()
	if info, err := os.Stat(opt.Root); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("/ is %v, %v", info.Mode(), err)
	}
}

// TestNotEntered: when the container's own files cannot all be put away, they are where they were, and none is taken for a step's.
func TestNotEntered(t *testing.T) {
	opt, base := container(t)
	m, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	before := listing(t, opt.Root, ".slipway")
	files(t, opt.Dir, "host/home/")
	tree, err := m.Tree([]string{base})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Enter(context.Background(), tree); err == nil {
		t.Error("entered a directory that could not be emptied")
	}
	tree.Drop()
	after := listing(t, opt.Root, ".slipway")
	if !slices.Equal(names(before), names(after)) {
		t.Errorf("the container has %v,\nwant %v", names(after), names(before))
	}
	// The next step runs.
	next, v, err := enter(m, base)
	if err == nil {
		err = v.Leave()
	}
	if err != nil {
		t.Fatal(err)
	}
	next.Release()
}
