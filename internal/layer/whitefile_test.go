package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhiteoutsOnOverlay: on an overlay filesystem, which has no devices that are whiteouts, a layer has them all the same; and
// overlayfs sees them where it knows of such files.
func TestWhiteoutsOnOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "on", "base/d", "seen"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(at, options string) {
		t.Helper()
		if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(dir+"/on", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	if err := errors.Join(os.Mkdir(dir+"/on/layer", 0o755), os.WriteFile(dir+"/base/gone", nil, 0o644), os.WriteFile(dir+"/base/d/gone", nil, 0o644), os.WriteFile(dir+"/base/d/stays", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	w, err := NewDirWriter(dir + "/on/layer")
	if err != nil {
		t.Fatal(err)
	}
	w.SetFlavor(User, "")
	for _, e := range []Entry{{Path: "d", Mode: unix.S_IFDIR | 0o755}, {Path: "d/gone", Whiteout: true}, {Path: "d/empty", Mode: unix.S_IFREG | 0o644}, {Path: "gone", Whiteout: true}} {
		if err := w.Add(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tree := OpenDir(dir+"/on/layer", DirOptions{Overlay: true, Flavor: User})
	for name, white := range map[string]bool{"gone": true, "d/gone": true, "d/empty": false} {
		if e, err := tree.Lstat(name); err != nil || e.Whiteout != white {
			t.Errorf("%s: got %+v, %v; want a whiteout: %v", name, e, err, white)
		}
	}
	merged := Merged([]Tree{OpenDir(dir+"/base", DirOptions{}), tree})
	if _, err := merged.Lstat("d/gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was removed shows: %v", err)
	}
	mount(dir+"/seen", fmt.Sprintf("lowerdir=%[1]s/on/layer:%[1]s/base,userxattr", dir))
	if _, err := os.Lstat(dir + "/seen/d/stays"); err != nil {
		t.Error(err)
	}
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err == nil && (major > 6 || major == 6 && minor >= 7) {
		if _, err := os.Lstat(dir + "/seen/d/gone"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("overlayfs shows what was removed: %v", err)
		}
	}
}
