package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mounters are the two ways to the kernel; each must do everything.
var mounters = map[string]func(string, []string, string, string, Options) error{
	"Mount":    Mount,
	"mountNew": mountNew,
	"mountOld": func(target string, lower []string, upper, work string, opt Options) error {
		var open handles
		defer open.close()
		return mountOld(target, lower, upper, work, opt, open.path)
	},
}

// unprivileged tests cannot be: overlayfs needs root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting overlayfs needs root")
	}
}

// filesystems gives a directory on each kind of filesystem that an upper may be on.
func filesystems(t *testing.T) map[string]string {
	t.Helper()
	mem, err := os.MkdirTemp("/dev/shm", "overlay-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(mem) })
	return map[string]string{"tmpfs": mem, "disk": t.TempDir()}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func unmountLater(t *testing.T, target string) {
	t.Helper()
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmounting %s: %v", target, err)
		}
	})
}

func TestMountManyLayers(t *testing.T) {
	needRoot(t)
	for fsName, dir := range filesystems(t) {
		for name, mount := range mounters {
			t.Run(fsName+"/"+name, func(t *testing.T) {
				base, err := os.MkdirTemp(dir, "many:with,odd\\signs")
				if err != nil {
					t.Fatal(err)
				}
				target, upper, work := filepath.Join(base, "t"), filepath.Join(base, "u:,"), filepath.Join(base, "w:,")
				mkdirs(t, target, upper, work)
				var lower []string
				for i := range 150 {
					layer := filepath.Join(base, fmt.Sprintf("layer:%d,x", i), "fs")
					mkdirs(t, layer)
					write(t, filepath.Join(layer, fmt.Sprintf("own-%d", i)), "")
					write(t, filepath.Join(layer, "topmost"), fmt.Sprint(i))
					lower = append(lower, layer)
				}
				if err := mount(target, lower, upper, work, Options{NoDev: true}); err != nil {
					t.Fatal(err)
				}
				unmountLater(t, target)
				for i := range 150 {
					if _, err := os.Lstat(filepath.Join(target, fmt.Sprintf("own-%d", i))); err != nil {
						t.Error(err)
					}
				}
				got, err := os.ReadFile(filepath.Join(target, "topmost"))
				if err != nil || string(got) != "149" {
					t.Errorf("topmost layer: got %q, %v; want 149", got, err)
				}
				changeAndCheck(t, target, upper)
			})
		}
	}
}

// changeAndCheck removes and writes through the mount and looks at the upper directory.
func changeAndCheck(t *testing.T, target, upper string) {
	t.Helper()
	if err := os.Remove(filepath.Join(target, "own-3")); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(upper, "own-3"), &st); err != nil {
		t.Fatalf("no whiteout in the upper directory: %v", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: got mode %o and device %d, want a character device 0", st.Mode, st.Rdev)
	}
	write(t, filepath.Join(target, "new"), "new")
	if got, err := os.ReadFile(filepath.Join(upper, "new")); err != nil || string(got) != "new" {
		t.Errorf("new file in the upper directory: got %q, %v", got, err)
	}
	if err := unix.Mknod(filepath.Join(target, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Open(filepath.Join(target, "null")); !errors.Is(err, os.ErrPermission) {
		t.Errorf("opening a device node below a nodev mount: got %v, want permission denied", err)
	}
}

func TestMountReadOnly(t *testing.T) {
	needRoot(t)
	for _, layers := range []int{1, 2} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			base := t.TempDir()
			target := filepath.Join(base, "t")
			mkdirs(t, target)
			var lower []string
			for i := range layers {
				dir := filepath.Join(base, fmt.Sprint(i))
				mkdirs(t, dir)
				write(t, filepath.Join(dir, fmt.Sprint(i)), "")
				lower = append(lower, dir)
			}
			if err := Mount(target, lower, "", "", Options{NoSuid: true, NoDev: true}); err != nil {
				t.Fatal(err)
			}
			unmountLater(t, target)
			if entries, err := os.ReadDir(target); err != nil || len(entries) != layers {
				t.Errorf("entries: got %v, %v; want %d", entries, err, layers)
			}
			if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing: got %v, want EROFS", err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(target, &st); err != nil {
				t.Fatal(err)
			}
			if want := int64(unix.ST_NODEV | unix.ST_NOSUID | unix.ST_RDONLY); st.Flags&want != want {
				t.Errorf("mount flags: got %x, want at least %x", st.Flags, want)
			}
		})
	}
}

func TestMountLongPaths(t *testing.T) {
	needRoot(t)
	for name, mount := range mounters {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), strings.Repeat("a", 200), strings.Repeat("b", 200))
			target, upper, work := filepath.Join(base, "t"), filepath.Join(base, "u"), filepath.Join(base, "w")
			lower := filepath.Join(base, "l")
			mkdirs(t, target, upper, work, lower)
			write(t, filepath.Join(lower, "f"), "text")
			if err := mount(target, []string{lower}, upper, work, Options{}); err != nil {
				t.Fatal(err)
			}
			unmountLater(t, target)
			if got, err := os.ReadFile(filepath.Join(target, "f")); err != nil || string(got) != "text" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestMountDurableReusesWork(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	target, upper, work, lower := filepath.Join(base, "t"), filepath.Join(base, "u"), filepath.Join(base, "w"), filepath.Join(base, "l")
	mkdirs(t, target, upper, work, lower)
	for range 2 {
		if err := Mount(target, []string{lower}, upper, work, Options{Durable: true}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(target, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMountErrors(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	target, lower := filepath.Join(base, "t"), filepath.Join(base, "l")
	mkdirs(t, target, lower)
	missing := filepath.Join(base, "missing")
	for name, c := range map[string]struct {
		lower       []string
		upper, work string
		want        string
	}{
		"no layers":     {nil, "", "", "no lower directory"},
		"no work":       {[]string{lower}, lower, "", "without a work directory"},
		"missing lower": {[]string{lower, missing}, "", "", missing},
		"missing alone": {[]string{missing}, "", "", missing},
		"missing upper": {[]string{lower}, missing, lower, missing},
	} {
		err := Mount(target, c.lower, c.upper, c.work, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
		if err == nil {
			_ = unix.Unmount(target, unix.MNT_DETACH)
		}
	}
}

func BenchmarkMount(b *testing.B) {
	base := b.TempDir()
	target, upper := filepath.Join(base, "t"), filepath.Join(base, "u")
	var lower []string
	for i := range 30 {
		lower = append(lower, filepath.Join(base, fmt.Sprint(i)))
	}
	for _, dir := range append([]string{target, upper}, lower...) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	for b.Loop() {
		n++
		work := filepath.Join(base, fmt.Sprint("w", n))
		if err := os.Mkdir(work, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := Mount(target, lower, upper, work, Options{}); err != nil {
			b.Fatal(err)
		}
		if err := unix.Unmount(target, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMountFull: where there is no place for what the kernel makes in the work directory, the error says so, however far the kernel came.
func TestMountFull(t *testing.T) {
	needRoot(t)
	full := 0
	for inodes := 5; inodes < 13; inodes++ { // the root and four directories take five
		for _, durable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d inodes with durable %t", inodes, durable), func(t *testing.T) {
				dir := t.TempDir()
				if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("nr_inodes=%d", inodes)); err != nil {
					t.Fatal(err)
				}
				unmountLater(t, dir)
				lower, upper, work, target := filepath.Join(dir, "l"), filepath.Join(dir, "u"), filepath.Join(dir, "w"), filepath.Join(dir, "t")
				mkdirs(t, lower, upper, work, target)
				err := Mount(target, []string{lower}, upper, work, Options{Durable: durable})
				switch {
				case errors.Is(err, unix.ENOSPC):
					if full++; strings.Contains(err.Error(), "fsconfig") {
						t.Errorf("it was tried again in a directory in which the first attempt has left something: %v", err)
					}
				case err != nil:
					t.Errorf("got %v, want ENOSPC", err)
				default:
					unmountLater(t, target)
					if err := os.WriteFile(filepath.Join(target, "f"), nil, 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
						t.Errorf("writing: %v", err)
					}
				}
			})
		}
	}
	if full < 4 {
		t.Errorf("%d mounts had no space: the test tests little", full)
	}
}
