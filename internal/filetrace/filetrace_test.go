package filetrace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// overlaid has fn called on a thread that sees an overlay at a path, and nobody else.
func overlaid(t *testing.T, fn func(root string)) {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	dir, done := t.TempDir(), make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("tmpfs", dir, "tmpfs", 0, "")
		}
		for _, name := range []string{"lower", "upper", "work", "root"} {
			err = errors.Join(err, os.Mkdir(filepath.Join(dir, name), 0o755))
		}
		if err == nil {
			options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
			err = unix.Mount("overlay", dir+"/root", "overlay", 0, options)
		}
		if err == nil {
			fn(filepath.Join(dir, "root"))
			err = errors.Join(unix.Unmount(dir+"/root", 0), unix.Unmount(dir, unix.MNT_DETACH))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// told collects what a watch tells of what a shell does in a directory.
func told(t *testing.T, root, script string) (all []string, lost int) {
	t.Helper()
	seen := map[string]bool{}
	w, err := Start(root, nil, func(k Kind, path string) bool {
		entry := string(k) + " " + strings.TrimPrefix(path, root)
		again := seen[entry]
		seen[entry] = true
		return again
	})
	if err != nil {
		t.Error(err)
		return nil, 0
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	lost, cerr := w.Close()
	if err := errors.Join(err, cerr); err != nil {
		t.Errorf("%s: %v: %s", script, err, out)
	}
	for entry := range seen {
		all = append(all, entry)
	}
	slices.Sort(all)
	return all, lost
}

// Each thing that is opened is told, with its path, and nothing else.
func TestWatch(t *testing.T) {
	overlaid(t, func(root string) {
		for name, text := range map[string]string{"read": "1", "stat": "1", "gone": "1", "odd (deleted)": "1", "new\nline": "1", "moved": "1"} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
		program, err := os.ReadFile("/bin/true")
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "program"), program, 0o755)
		}
		if err := errors.Join(err, os.Mkdir(filepath.Join(root, "dir"), 0o755), os.Symlink("read", filepath.Join(root, "link"))); err != nil {
			t.Error(err)
		}
		got, lost := told(t, root, `cat read link < read; test -f stat; ./program; ls dir; cat gone; rm gone; cat "odd (deleted)"; cat new*; echo 2 > written; mv moved there; cat there
			i=0; while [ $i -lt 300 ]; do read x < read; i=$((i+1)); done`)
		want := []string{"d ", "d /dir", "o /gone", "o /new\nline", "o /odd", "o /odd (deleted)", "o /program", "o /read", "o /there", "o /written", "x /program"}
		if lost != 0 || !slices.Equal(got, want) {
			t.Errorf("told is %q, %d lost, want %q", got, lost, want)
		}
	})
}

// Whatever is opened at the same time: nothing is lost, and a process whose path is too long for a name is counted.
func TestMany(t *testing.T) {
	overlaid(t, func(root string) {
		const processes, files = 8, 500
		got, lost := told(t, root, fmt.Sprintf(`for p in $(seq %d); do (i=0; mkdir d$p; while [ $i -lt %d ]; do : > d$p/f$i; i=$((i+1)); done) & done; wait`, processes, files))
		if lost != 0 || len(got) != processes*files {
			t.Errorf("%d are told, %d lost, want %d", len(got), lost, processes*files)
		}
		long := strings.Repeat("n", 250)
		_, lost = told(t, root, fmt.Sprintf(`i=0; while [ $i -lt 20 ]; do mkdir %s; cd -P ./%s 2>/dev/null || cd %s; i=$((i+1)); done; : > deep`, long, long, long))
		if lost == 0 {
			t.Error("what has no name is not counted")
		}
	})
}

// Where processes do not wait, what comes too fast is counted, and all else is told.
func TestQueue(t *testing.T) {
	overlaid(t, func(root string) {
		var all []string
		w, err := start([]string{root}, func(k Kind, path string) bool {
			all = append(all, string(k)+" "+strings.TrimPrefix(path, root))
			return false
		}, false)
		if err != nil {
			t.Error(err)
			return
		}
		cmd := exec.Command("sh", "-c", "echo 1 > a; cat a; ls > b; rm a b")
		cmd.Dir = root
		err = cmd.Run()
		lost, cerr := w.Close()
		if err := errors.Join(err, cerr); err != nil || lost != 0 {
			t.Errorf("%v, %d lost", err, lost)
		}
		for _, want := range []string{"o /a", "o /b", "d "} {
			if !slices.Contains(all, want) {
				t.Errorf("%q is not among %q", want, all)
			}
		}
		release := make(chan struct{})
		if w, err = start([]string{root}, func(Kind, string) bool { <-release; return false }, false); err != nil {
			t.Error(err)
			return
		}
		cmd = exec.Command("sh", "-c", "i=0; while [ $i -lt 20000 ]; do : > f$i; i=$((i+1)); done") // fs.fanotify.max_queued_events is 16,384
		cmd.Dir = root
		err = cmd.Run()
		close(release)
		lost, cerr = w.Close()
		if err := errors.Join(err, cerr); err != nil || lost == 0 {
			t.Errorf("%v, nothing of it is lost", err)
		}
	})
}

// Nobody finds that a file is open which nobody but the watch has opened: a pipe has no reader, and a file can have a lease.
func TestNobodyElse(t *testing.T) {
	overlaid(t, func(root string) {
		pipe, file := filepath.Join(root, "pipe"), filepath.Join(root, "file")
		if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Error(err)
			return
		}
		w, err := Start(root, nil, func(Kind, string) bool { return false })
		if err != nil {
			t.Error(err)
			return
		}
		for i := range 3000 {
			if fd, err := unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ENXIO) {
				t.Errorf("opening a pipe that nobody reads, %d: %v", i, errors.Join(err, unix.Close(fd)))
				break
			}
			fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err == nil {
				_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
				err = errors.Join(err, unix.Close(fd))
			}
			if err != nil {
				t.Errorf("a lease, %d: %v", i, err)
				break
			}
		}
		if lost, err := w.Close(); lost != 0 || err != nil {
			t.Errorf("%d lost, %v", lost, err)
		}
	})
}

// A filesystem that is not a container's own is not watched.
func TestNoOverlay(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is something else")
	}
	if w, err := Start("/dev/shm", nil, func(Kind, string) bool { return true }); err == nil {
		t.Error("all of the machine's are watched")
		_, _ = w.Close()
	}
}

func written(t *testing.T, add func(*Writer)) (*Summary, []string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "files")
	w, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	add(w)
	sum, err := w.Close(0, true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	if err := Read(f, func(k Kind, path string) error {
		all = append(all, string(k)+" "+path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return sum, all
}

func TestWriter(t *testing.T) {
	sum, all := written(t, func(w *Writer) {
		for i, k := range []Kind{Opened, Opened, Executed, Listed} {
			if again := w.Add(k, "/a\nb"); again != (i == 1) {
				t.Errorf("entry %d was there: %t", i, again)
			}
		}
	})
	if !slices.Equal(all, []string{"o /a\nb", "x /a\nb", "d /a\nb"}) || *sum != (Summary{Files: 1, Executed: 1, Listed: 1, Mounts: true}) || !sum.Whole() {
		t.Errorf("kept is %q, %+v", all, sum)
	}
}

// What is more than is kept is cut, and said to be.
func TestWriterBounds(t *testing.T) {
	sum, all := written(t, func(w *Writer) {
		for i := range maxEntries + 10 {
			w.Add(Opened, fmt.Sprint("/", i))
		}
	})
	if !sum.Cut || sum.Whole() || len(all) != maxEntries {
		t.Errorf("%d are kept, %+v", len(all), sum)
	}
	long := "/" + strings.Repeat("n", 4000)
	sum, all = written(t, func(w *Writer) {
		for i := range maxBytes/4000 + 10 {
			w.Add(Opened, fmt.Sprint(long, i))
		}
	})
	if !sum.Cut || len(all) < maxBytes/4100 {
		t.Errorf("%d long ones are kept, %+v", len(all), sum)
	}
}

// What is damaged, or made up, is an error.
func TestReadDamaged(t *testing.T) {
	for _, text := range []string{"", "o/a", "o/a\x00o/b", "\x00"} {
		var b bytes.Buffer
		zip := gzip.NewWriter(&b)
		if _, err := zip.Write([]byte(text)); err != nil || zip.Close() != nil {
			t.Fatal(err)
		}
		if err := Read(bytes.NewReader(b.Bytes()), func(Kind, string) error { return nil }); (err == nil) != (text == "") {
			t.Errorf("%q: %v", text, err)
		}
		if err := Read(bytes.NewReader(b.Bytes()[:b.Len()/2]), func(Kind, string) error { return nil }); err == nil {
			t.Errorf("half of %q is whole", text)
		}
	}
}
