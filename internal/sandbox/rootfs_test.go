package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (l *lab) wantUpper(what string, spec *Spec, want ...string) {
	l.t.Helper()
	if got := tree(l.t, spec.Root.Upper); !slices.Equal(got, want) {
		l.t.Errorf("%s: upper directory: got %q, want %q", what, got, want)
	}
}

func testUpper(l *lab) {
	spec := l.command("true")
	l.run(spec)
	l.wantUpper("true", spec)

	spec = l.spec("rm /bin/ls; echo new > /tmp/new; rm -r /home; mkdir /home; ln -s x /link")
	l.run(spec)
	l.wantUpper("changes", spec, "d bin", "D bin/ls", "d home", "L link", "d tmp", "- tmp/new")
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(spec.Root.Upper, "bin/ls"), &st); err != nil || st.Rdev != 0 {
		l.t.Errorf("whiteout: got device %d, %v", st.Rdev, err)
	}

	// Only what the process did is in the layer, and shows in the times of /etc.
	spec = l.spec("echo x >> /etc/passwd")
	l.run(spec)
	l.wantUpper("a file of /etc", spec, "d etc", "- etc/passwd")
	info, err := os.Stat(filepath.Join(spec.Root.Upper, "etc"))
	if err != nil {
		l.t.Fatal(err)
	}
	if want := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC); !info.ModTime().Equal(want) {
		l.t.Errorf("modification time of /etc: got %v, want %v", info.ModTime(), want)
	}

	// A directory that is there for a mount has what the process put beside the mount.
	spec = l.spec("touch /a/b/file /a/b/c/hidden")
	spec.Mounts = []Mount{{Dest: "/a/b/c", Tmpfs: &Tmpfs{}}}
	l.run(spec)
	l.wantUpper("beside a mount", spec, "d a", "d a/b", "- a/b/file")
}

// testNoTrace looks at the root directory's attributes, which the layer of mount points repeats.
func testNoTrace(l *lab) {
	note := "trusted.note"
	if nested() {
		note = "user.note"
	}
	if err := os.Chown(filepath.Join(l.image, "etc"), 5, 6); err != nil {
		l.t.Fatal(err)
	}
	if err := unix.Chmod(filepath.Join(l.image, "etc"), 0o1751); err != nil {
		l.t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(l.image, "etc"), note, []byte("kept"), 0); err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec("stat -c '%a %u %g %Y' /etc; touch /etc/new; ls -d /etc/resolv.conf")
	if got := l.run(spec); got != "1751 5 6 981173106\n/etc/resolv.conf" {
		l.t.Errorf("attributes of /etc: got %q", got)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(filepath.Join(spec.Root.Upper, "etc"), note, value); err != nil || string(value[:n]) != "kept" {
		l.t.Errorf("extended attribute of /etc in the layer: got %q, %v", value[:max(n, 0)], err)
	}
	if got, want := tree(l.t, l.image), "etc/resolv.conf"; slices.Contains(got, "- "+want) {
		l.t.Errorf("the image has got a %s", want)
	}
}

// testHiddenStubs has an upper directory that hides the layer of mount points.
func testHiddenStubs(l *lab) {
	spec := l.spec("cat /etc/hosts > /dev/null && cat /proc/self/status > /dev/null && test -d /opt/deep/mount")
	spec.Mounts = []Mount{{Dest: "/opt/deep/mount", Tmpfs: &Tmpfs{}}}
	upper := spec.Root.Upper
	mkdir(l.t, filepath.Join(upper, "etc"), filepath.Join(upper, "opt"))
	for _, name := range []string{"etc/hosts", "etc/resolv.conf", "proc"} {
		if err := unix.Mknod(filepath.Join(upper, name), unix.S_IFCHR, 0); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := unix.Setxattr(filepath.Join(upper, "opt"), opaque(), []byte("y"), 0); err != nil {
		l.t.Fatal(err)
	}
	l.run(spec)
	// The mount points that had to be made stay, as in Docker: nothing is removed from a tree that a
	// process had.
	want := []string{"d etc", "- etc/hosts", "- etc/resolv.conf", "d opt", "d opt/deep", "d opt/deep/mount", "d proc"}
	l.wantUpper("mount points", spec, want...)
	l.again(spec)
	l.run(spec)
	l.wantUpper("mount points of another run", spec, want...)
}

// testOddRoots: links of an image in the place of what the sandbox mounts on lead nowhere but into its own
// root. Whether such a container can be started is not the question.
func testOddRoots(l *lab) {
	victim := l.t.TempDir()
	for _, dir := range []string{"pts", "shm", "sub"} {
		mkdir(l.t, filepath.Join(victim, dir))
	}
	for _, file := range []string{"ptmx", "null", "console", "hosts", "resolv.conf", "full"} {
		write(l.t, filepath.Join(victim, file), "host's")
	}
	before := contents(l.t, victim)
	up := strings.Repeat("../", 30)
	for _, link := range []string{
		"dev", "proc", "sys", "etc", "dev/pts", "dev/shm", "dev/null", "dev/ptmx", "dev/console", "dev/full", "etc/hosts", "etc/resolv.conf", "sys/fs", "place", "proc/self",
	} {
		for i, to := range []string{victim, up + victim[1:], victim + "/hosts", "/proc/self/root" + victim, "/proc/self/fd/5"} {
			image := filepath.Join(l.t.TempDir(), "odd")
			mkdir(l.t, filepath.Dir(filepath.Join(image, link)))
			if err := os.Symlink(to, filepath.Join(image, link)); err != nil {
				l.t.Fatal(err)
			}
			spec := l.spec("chmod 0 /dev/* /etc/* /place; echo written | tee /dev/null /dev/full /etc/hosts /place/hosts /place; true")
			spec.Root.Lower = append(spec.Root.Lower, image)
			spec.Cwd, spec.Terminal = "/place/dir", i%2 == 0
			spec.Mounts = []Mount{{Dest: "/place/tmp", Tmpfs: &Tmpfs{}}}
			out, err := l.try(spec)
			if after := contents(l.t, victim); !slices.Equal(after, before) {
				l.t.Fatalf("/%s is a link to %s: the host's directory was %q, is %q; the container: %v, %s", link, to, before, after, err, out)
			}
		}
	}
}

// testRacingLinks has another process exchange a directory of a shared mount for a link to the host, over and
// over, while mount points and a working directory are made below it.
func testRacingLinks(l *lab) {
	victim, shared := l.t.TempDir(), l.t.TempDir()
	dir, link := filepath.Join(shared, "dir"), filepath.Join(shared, "link")
	mkdir(l.t, dir)
	if err := os.Symlink(victim, link); err != nil {
		l.t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	file := filepath.Join(l.image, "etc/passwd")
	for range 20 {
		spec := l.command("true")
		spec.Mounts = []Mount{
			{Dest: "/shared", Bind: shared}, {Dest: "/shared/dir/new/mount", Tmpfs: &Tmpfs{}}, {Dest: "/shared/dir/file", Bind: file}, {Dest: "/shared/link/other", Tmpfs: &Tmpfs{}},
		}
		spec.Cwd = "/shared/dir/where"
		_, _ = l.try(spec) // what is lost to the race is an error
		if got := tree(l.t, victim); len(got) > 0 {
			l.t.Errorf("the host's directory: got %q", got)
			break
		}
	}
	close(stop)
	<-stopped
}

// contents lists a directory with modes, times and what files hold.
func contents(t testing.TB, dir string) (lines []string) {
	t.Helper()
	for _, line := range append(tree(t, dir), "d .") {
		path := filepath.Join(dir, line[2:])
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		if info.Mode().IsRegular() {
			if data, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		lines = append(lines, fmt.Sprintf("%s %v %d %q", line, info.Mode(), info.ModTime().UnixNano(), data))
	}
	return lines
}

// again lets a spec be run again on what its process left.
func (l *lab) again(spec *Spec) {
	l.t.Helper()
	if err := errors.Join(os.RemoveAll(spec.Root.Work), os.Mkdir(spec.Root.Work, 0o755)); err != nil {
		l.t.Fatal(err)
	}
}

// testSwappedMountPoint has a process put a link to a directory of the host in the place of what is
// above a mount point.
func testSwappedMountPoint(l *lab) {
	victim := l.t.TempDir()
	mkdir(l.t, filepath.Join(victim, "dir"))
	write(l.t, filepath.Join(victim, "file"), "")
	past := time.Date(2002, 3, 4, 5, 6, 7, 0, time.UTC)
	if err := os.Chtimes(victim, past, past); err != nil {
		l.t.Fatal(err)
	}
	before, err := os.Stat(victim)
	if err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec("mv /opt/deep /opt/moved && ln -s " + victim + " /opt/deep")
	spec.Mounts = []Mount{{Dest: "/opt/deep/dir", Tmpfs: &Tmpfs{}}, {Dest: "/opt/deep/file", Bind: filepath.Join(l.image, "etc/passwd")}}
	// What an earlier run made hides the layer of mount points.
	opt := filepath.Join(spec.Root.Upper, "opt")
	mkdir(l.t, opt)
	if err := unix.Setxattr(opt, opaque(), []byte("y"), 0); err != nil {
		l.t.Fatal(err)
	}
	l.run(spec)
	for range 2 { // the second run begins with the link
		if got, want := tree(l.t, victim), []string{"d dir", "- file"}; !slices.Equal(got, want) {
			l.t.Errorf("the host's directory: got %q, want %q", got, want)
		}
		after, err := os.Stat(victim)
		if err != nil || !after.ModTime().Equal(past) || !os.SameFile(before, after) {
			l.t.Errorf("the host's directory was changed: %v, %v", after.ModTime(), err)
		}
		l.again(spec)
		spec.Args = []string{"test", "-d", victim + "/dir", "-a", "-f", victim + "/file"} // in its own root
		if out, err := l.try(spec); err != nil {
			l.t.Errorf("running again: %v; output: %s", err, out)
		}
	}
}

func testScratch(l *lab) {
	spec := l.command("/tools/busybox", "ls", "/")
	spec.Root.Lower = nil
	spec.Mounts = []Mount{{Dest: "/tools", Bind: filepath.Join(l.image, "bin"), ReadOnly: true}}
	if got := l.run(spec); got != "dev\netc\nproc\nsys\ntools" {
		l.t.Errorf("root of scratch: got %q", got)
	}
	l.wantUpper("scratch", spec)
}

func testCwd(l *lab) {
	spec := l.spec("pwd; stat -c '%u %g %a' . ..; touch here")
	spec.Cwd, spec.User = "/app/deep/", "user"
	if got := l.run(spec); got != "/app/deep\n1000 1001 755\n1000 1001 755" {
		l.t.Errorf("got %q", got)
	}
	l.wantUpper("new directory", spec, "d app", "d app/deep", "- app/deep/here")

	spec = l.command("pwd")
	spec.Cwd = "/src/sub"
	dir := l.t.TempDir()
	spec.Mounts = []Mount{{Dest: "/src", Bind: dir, Mapped: true}}
	if got := l.run(spec); got != "/src/sub" {
		l.t.Errorf("in a mount: got %q", got)
	}
	l.wantUpper("directory in a mount", spec)

	spec = l.command("pwd")
	spec.Cwd = "/etc/passwd/x"
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "/etc/passwd/x") {
		l.t.Errorf("below a file: got %v", err)
	}
}

func testReadOnlyRoot(l *lab) {
	spec := l.spec("touch /x 2>/dev/null && exit 1; touch /etc/x 2>/dev/null && exit 2; touch /rw/x && hostname")
	spec.Root.Upper, spec.Root.Work = "", ""
	spec.Mounts = []Mount{{Dest: "/rw", Tmpfs: &Tmpfs{}}}
	if got := l.run(spec); got != "buildkitsandbox" {
		l.t.Errorf("got %q", got)
	}
}

func testBind(l *lab) {
	dir := filepath.Join(l.t.TempDir(), "with:odd,name")
	mkdir(l.t, filepath.Join(dir, "sub"))
	write(l.t, filepath.Join(dir, "file"), "content")
	spec := l.spec("cat /rw/file /one/file.txt; echo more > /rw/new; touch /ro/x /one/file.txt 2>&1 | grep -c Read-only; ls /ro")
	spec.Mounts = []Mount{
		{Dest: "/rw", Bind: dir, Mapped: true}, {Dest: "/ro/", Bind: dir, ReadOnly: true},
		{Dest: "/one/file.txt", Bind: filepath.Join(dir, "file"), ReadOnly: true},
	}
	if got := l.run(spec); got != "contentcontent2\nfile\nnew\nsub" {
		l.t.Errorf("got %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || string(got) != "more\n" {
		l.t.Errorf("what was written: got %q, %v", got, err)
	}
	l.wantUpper("binds", spec)
}

// stage makes a root for mounts: two layers, the upper one changing the lower.
func (l *lab) stage() Root {
	base, top := filepath.Join(l.dir, "base"), filepath.Join(l.dir, "top")
	mkdir(l.t, filepath.Join(base, "out/deep"), filepath.Join(top, "out"))
	write(l.t, filepath.Join(base, "out/a"), "a")
	write(l.t, filepath.Join(base, "out/deep/d"), "d")
	write(l.t, filepath.Join(top, "out/b"), "b")
	for name, target := range map[string]string{"abs": "/out/deep", "escape": "../../../../../../etc/passwd", "up": "out/../out/a"} {
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(top, "out/gone"), unix.S_IFCHR, 0); err != nil {
		l.t.Fatal(err)
	}
	write(l.t, filepath.Join(base, "out/gone"), "")
	return Root{Lower: []string{base, top}}
}

func testRootMounts(l *lab) {
	root := l.stage()
	spec := l.spec("ls /all /all/out; ls /dir; cat /file /linked/d; touch /dir/x /file 2>&1 | grep -c Read-only")
	spec.Mounts = []Mount{
		{Dest: "/all", Root: &root}, {Dest: "/dir", Root: &root, Selector: "/out"}, {Dest: "/file", Root: &root, Selector: "up"},
		{Dest: "/linked", Root: &root, Selector: "abs"},
	}
	want := "/all:\nabs\nescape\nout\nup\n\n/all/out:\na\nb\ndeep\na\nb\ndeep\nad2"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("mounts of layers", spec)

	rw := root
	rw.Upper, rw.Work = filepath.Join(l.dir, "mount-upper"), filepath.Join(l.dir, "mount-work")
	mkdir(l.t, rw.Upper, rw.Work)
	spec = l.spec("rm /cache/a; echo c > /cache/c; touch /same/c/x 2>/dev/null; ls /ro; touch /ro/x 2>&1 | grep -c Read-only")
	spec.Mounts = []Mount{{Dest: "/cache", Root: &rw, Selector: "out"}, {Dest: "/ro", Root: &rw, Selector: "out", ReadOnly: true}}
	if got := l.run(spec); got != "b\nc\ndeep\n1" {
		l.t.Errorf("writable mount: got %q", got)
	}
	if got, want := tree(l.t, rw.Upper), []string{"d out", "D out/a", "- out/c"}; !slices.Equal(got, want) {
		l.t.Errorf("its upper directory: got %q, want %q", got, want)
	}

	for selector, want := range map[string]string{"nothing": "nothing", "escape": "escape", "out/gone": "out/gone"} {
		spec := l.command("true")
		spec.Mounts = []Mount{{Dest: "/m", Root: &root, Selector: selector}}
		_, err := l.try(spec)
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), l.state) {
			l.t.Errorf("selector %s: got %v", selector, err)
		}
	}
}

func testTmpfs(l *lab) {
	spec := l.spec("stat -c %a /t; dd if=/dev/zero of=/t/big bs=1024 count=2000 2>&1 | grep -c 'No space'; stat -f -c %T /t; busybox df -k /dev/shm | busybox awk 'END{print $2}'")
	spec.Mounts = []Mount{{Dest: "/t", Tmpfs: &Tmpfs{Size: 1 << 20}}}
	spec.ShmSize = 3 << 20
	if got := l.run(spec); got != "1777\n1\ntmpfs\n3072" && (l.linked || got != "755\n1\ntmpfs\n3072") {
		l.t.Errorf("got %q", got) // runc 1.1 gives a tmpfs the mode of its mount point
	}
	l.wantUpper("tmpfs", spec)
}

func testNestedMounts(l *lab) {
	root, dir := l.stage(), l.t.TempDir()
	write(l.t, filepath.Join(dir, "f"), "f")
	spec := l.spec("ls /m /m/sub /m/sub/t /m/out; cat /m/conf; touch /m/sub/t/x; touch /m/x 2>&1 | grep -c Read-only")
	spec.Mounts = []Mount{
		{Dest: "/m", Root: &root},
		{Dest: "/m/sub", Bind: dir},
		{Dest: "/m/sub/t", Tmpfs: &Tmpfs{}},
		{Dest: "/m/conf", Bind: filepath.Join(dir, "f")},
	}
	mkdir(l.t, filepath.Join(dir, "t"))
	want := "/m:\nabs\nconf\nescape\nout\nsub\nup\n\n/m/out:\na\nb\ndeep\n\n/m/sub:\nf\nt\n\n/m/sub/t:\nf1"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("nested mounts", spec)

	// A mount may hide one that is there by default.
	spec = l.spec("cat /etc/hosts; test -e /dev/shm/f && ls /dev/null")
	spec.Mounts = []Mount{{Dest: "/etc/hosts", Bind: filepath.Join(dir, "f")}, {Dest: "/dev/shm", Bind: dir}}
	if got := l.run(spec); got != "f/dev/null" {
		l.t.Errorf("over default mounts: got %q", got)
	}
	l.wantUpper("over default mounts", spec)
}

func testMountErrors(l *lab) {
	for want, m := range map[string]Mount{
		"/no/such/source": {Dest: "/m", Bind: "/no/such/source"},
		"not absolute":    {Dest: "m", Tmpfs: &Tmpfs{}},
		"root filesystem": {Dest: "/x/..", Tmpfs: &Tmpfs{}},
		"exactly one":     {Dest: "/m"},
		"got 2":           {Dest: "/m", Bind: "/", Tmpfs: &Tmpfs{}},
		"/etc/passwd/m":   {Dest: "/etc/passwd/m", Tmpfs: &Tmpfs{}},
		"work directory":  {Dest: "/m", Root: &Root{Lower: []string{l.image}, Upper: l.dir}},
	} {
		spec := l.command("true")
		spec.Mounts = []Mount{m}
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), want) {
			l.t.Errorf("%+v: got %v, want an error with %q", m, err, want)
		}
	}
}

// testProcMounts: nothing but what LXCFS emulates can cover something in /proc.
func testProcMounts(l *lab) {
	file := filepath.Join(l.dir, "file")
	write(l.t, file, "covered\n")
	for _, m := range []Mount{{Dest: "/proc/sys", Tmpfs: &Tmpfs{}}, {Dest: "/proc/kcore", Bind: file}, {Dest: "/proc/self/attr", Bind: l.dir}} {
		spec := l.command("true")
		spec.Mounts = []Mount{m}
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "inside /proc") && !strings.Contains(err.Error(), "mountpoint") {
			l.t.Errorf("%+v: got %v, want an error", m, err)
		}
	}
	// A link of the host on the way is followed there.
	link := filepath.Join(l.dir, "link")
	if err := os.Symlink(l.dir, link); err != nil {
		l.t.Fatal(err)
	}
	file = filepath.Join(link, "file")
	// What fails before there is a terminal is told too.
	failing := l.command("true")
	failing.Terminal = true
	failing.Mounts = []Mount{{Dest: "/proc/stat", Bind: l.dir}}
	if _, err := l.try(failing); err == nil || l.linked && !strings.Contains(err.Error(), "mounting /proc/stat: ") {
		l.t.Errorf("a directory over a file, with a terminal: got %v", err)
	}
	spec := l.spec("cat /proc/uptime; echo x 2>/dev/null > /proc/uptime || echo read-only; cat /proc/1/comm")
	spec.Mounts = []Mount{{Dest: "/proc/uptime", Bind: file, ReadOnly: true}, {Dest: "/proc", Bind: l.dir}}
	if boundProc() { // whose first process is another one
		spec.Args[2] = strings.Replace(spec.Args[2], "/1/", "/self/", 1)
	}
	if got := l.run(spec); got != "covered\nread-only\nsh" && got != "covered\nread-only\ncat" {
		l.t.Errorf("a file over /proc/uptime: got %q", got)
	}
}

func testManyLayers(l *lab) {
	spec := l.spec("cat /top; ls / | wc -l")
	for i := range 120 {
		dir := filepath.Join(l.dir, "layers", fmt.Sprint(i))
		mkdir(l.t, dir)
		write(l.t, filepath.Join(dir, "top"), fmt.Sprintln(i))
		write(l.t, filepath.Join(dir, fmt.Sprint("n", i)), "")
		spec.Root.Lower = append(spec.Root.Lower, dir)
	}
	if got := l.run(spec); got != "119\n128" { // 120 files, top, and bin dev etc home proc sys tmp
		l.t.Errorf("got %q", got)
	}
}
