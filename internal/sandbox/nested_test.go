package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// opaque is the name of overlayfs's attribute of an opaque directory.
func opaque() string {
	if nested() {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// nesting is a user namespace in which tests run.
type nesting struct {
	first, count int  // its IDs, on the host
	masked       bool // a part of /proc is hidden, as in a container
	filtered     bool // with Docker's profile for who has CAP_SYS_ADMIN
	overlay      bool // what is written is on an overlay
	tun          bool // everybody may open /dev/net/tun, as on most machines
}

// inNested has tests run as root of a user namespace.
func inNested(t *testing.T, n nesting, run string) {
	t.Helper()
	if os.Geteuid() != 0 || nested() {
		t.Skip("needs root of the host")
	}
	dir := t.TempDir()
	for at := dir; at != "/"; at = filepath.Dir(at) { // and nobody else's way there
		info, err := os.Stat(at)
		if err == nil && info.Mode()&0o001 == 0 {
			err = os.Chmod(at, info.Mode()|0o001)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, n.first, n.first); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run", run)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: n.first, Size: n.count}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: n.count > 1,
		Credential: &syscall.Credential{NoSetGroups: n.count == 1}, Pdeathsig: unix.SIGKILL,
	}
	var out []byte
	err := inMountNamespace(func() error {
		if n.overlay {
			if err := overlayAt(dir, t.TempDir(), n.first); err != nil {
				return err
			}
		}
		if err := n.prepare(); err != nil {
			return err
		}
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil || !strings.Contains(string(out), "--- PASS: Test") {
		t.Errorf("in a user namespace: %v\n%s", err, failures(string(out)))
	}
}

// prepare has the calling thread be where the namespace is made.
func (n nesting) prepare() error {
	if n.masked {
		if err := unix.Mount("/dev/null", "/proc/interrupts", "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if n.tun {
		if err := openTun(); err != nil {
			return err
		}
	}
	if !n.filtered {
		return nil
	}
	profile, err := seccompFor(append([]string{"CAP_SYS_ADMIN"}, defaultCaps...))
	if err != nil {
		return err
	}
	filter, err := compileFilter(profile)
	if err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

// overlayAt has a directory of somebody be on an overlay.
func overlayAt(dir, layers string, owner int) error {
	var options []string
	for _, name := range []string{"lower", "upper", "work"} {
		path := filepath.Join(layers, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		options = append(options, name+"dir="+path)
	}
	return errors.Join(unix.Mount("overlay", dir, "overlay", 0, strings.Join(options, ",")), os.Chown(dir, owner, owner))
}

// openTun has the calling thread's mount namespace have a /dev/net/tun that is everybody's.
func openTun() error {
	const place, node = "/dev/net", "/dev/net/tun"
	err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID, "mode=755")
	if err == nil {
		err = unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200)))
	}
	return errors.Join(err, os.Chmod(node, 0o666))
}

// failures are the lines of a test's output that do not tell that all is well.
func failures(out string) string {
	var kept []string
	for line := range strings.Lines(out) {
		if f := strings.TrimSpace(line); !strings.HasPrefix(f, "=== ") && !strings.HasPrefix(f, "--- PASS") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// kernelLog sees, when what it returns is called, that nothing was refused in the meantime that was known to be: the kernel writes a line to its log.
func kernelLog(t *testing.T) func() {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Logf("what the kernel logs is not looked at: %v", err)
		return func() {}
	}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	return func() {
		defer unix.Close(fd)
		for buf := make([]byte, 8192); ; {
			n, err := unix.Read(fd, buf)
			if err == unix.EAGAIN {
				return
			}
			if err == unix.EPIPE { // others wrote so much that some is gone
				continue
			}
			if err != nil || strings.Contains(string(buf[:n]), "swap in unprivileged tmpfs") {
				t.Errorf("in the kernel's log: %s, %v", buf[:max(n, 0)], err)
				return
			}
		}
	}
}

// TestNested: root of a user namespace that has all IDs runs what root runs.
func TestNested(t *testing.T) {
	if testing.Short() {
		t.Skip("long: the whole suite in a user namespace")
	}
	defer kernelLog(t)()
	inNested(t, nesting{first: firstNested, count: idCount, tun: true}, "^(TestLibcontainer|TestOlderKernel)$")
}

// TestNestedInContainer: in a container a part of /proc is hidden, and some system calls are refused.
func TestNestedInContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("long: the whole suite in a container")
	}
	inNested(t, nesting{first: firstNested, count: idCount, masked: true, filtered: true}, "^TestLibcontainer$")
}

// TestNestedOne: with one ID all is as before but what has to do with others.
func TestNestedOne(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a part of the suite with one ID; TestNestedOneOnOverlay has the short form")
	}
	inNested(t, nesting{first: firstNested, count: 1, masked: true}, "^TestLibcontainer$/^("+strings.Join([]string{
		"ExitCodes", "Output", "Stdin", "Terminal", "Leftovers", "Ulimits", "Upper", "HiddenStubs", "ReadOnlyRoot", "Bind", "RootMounts", "Tmpfs", "NestedMounts",
		"Network", "Apart", "OneUser", "Exec", "ExecTerminal", "ExecEnds", "MaskedPaths", "Insecure", "CgroupView",
	}, "|")+")$")
}

// TestNestedOnOverlay: with a store on an overlay, as a container's root is.
func TestNestedOnOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a part of the suite with a store on an overlay")
	}
	inNested(t, nesting{first: firstNested, count: idCount, masked: true, overlay: true}, "^TestLibcontainer$/^("+strings.Join([]string{
		"ExitCodes", "Output", "Leftovers", "Cancel", "NoTrace", "ReadOnlyRoot", "Bind", "Tmpfs", "ManyLayers", "Final", "Exec", "Elsewhere",
	}, "|")+")$")
}

// testOneUser: a process has its user, whatever IDs there are, and so has one more process.
func testOneUser(l *lab) {
	spec := l.spec("id -u; id -g; touch /tmp/mine && echo x > /tmp/mine && cat /tmp/mine")
	spec.User = "1000:1001"
	if err := os.Chmod(filepath.Join(l.image, "tmp"), 0o1777); err != nil {
		l.t.Fatal(err)
	}
	if got := l.run(spec); got != "1000\n1001\nx" {
		l.t.Errorf("a user: got %q", got)
	}
	if !l.linked {
		return
	}
	c := l.idle(nil)
	if got, err := c.execute(&Process{Args: []string{"id", "-u"}, User: "1000:1001"}, IO{}); err != nil || got != "1000" {
		l.t.Errorf("a user of one more process: got %q, %v", got, err)
	}
}

// testElsewhere: what a process changes comes to the upper directory, whatever that is on, and the next one goes on from there.
func testElsewhere(l *lab) {
	spec := l.spec("mkdir -p /srv/d/deep; touch /srv/d/a /srv/d/b; rm -r /home; mkdir /home; rm /bin/true; chown 33:34 /tmp; echo a > /tmp/a; ln /tmp/a /tmp/b; chmod 4711 /tmp/a; mkfifo /tmp/p; ln -s x /tmp/l; touch /tmp/gone; chmod 700 /")
	l.run(spec)
	l.again(spec)
	spec.Args[2] = "rm /tmp/gone; ls /home /bin/true 2>&1 | grep -v found; stat -c '%n %a %u:%g %h' / /tmp /tmp/*; cat /tmp/b; readlink /tmp/l"
	if got, want := l.run(spec), "ls: /bin/true: No such file or directory\n/home:\n/ 700 0:0 1\n/tmp 755 33:34 1\n/tmp/a 4711 0:0 2\n/tmp/b 4711 0:0 2\n/tmp/l 777 0:0 1\n/tmp/p 644 0:0 1\na\nx"; got != want {
		l.t.Errorf("the second process: got %q, want %q", got, want)
	}
	// As layers of others: what is removed in one of them goes with its directory in the next one.
	lower := append(spec.Root.Lower, spec.Root.Upper)
	for _, script := range []string{"rm -r /srv/d/deep /srv/d/a; ls /srv/d", "rm -r /srv/d; ls /srv; echo x > /srv/d", "cat /srv/d"} {
		next := l.spec(script)
		next.Root.Lower = lower
		if got, want := l.run(next), map[byte]string{'r': "b", 'c': "x"}[script[0]]; got != want && !strings.HasPrefix(script, "rm -r /srv/d;") || strings.Contains(got, "rm:") {
			l.t.Errorf("%s: got %q, want %q", script, got, want)
		}
		lower = append(lower, next.Root.Upper)
	}
}

// firstNested is none of anybody's IDs.
const firstNested = firstID - 2*idCount

// ownSeccomp is in how far this process is filtered itself, as the kernel has it.
func ownSeccomp(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return status(string(text))["Seccomp"]
}

// testApart: a container gets nowhere by what it sees of processes of others, which it does where it has this process's
// /proc: of another container, and of slipway.
func testApart(l *lab) {
	other := l.command("sh", "-c", "echo of-another > /tmp/secret; while :; do sleep 1000; done")
	other.Env = []string{"SECRET=of-another"}
	l.start(other)
	attack := fmt.Sprintf(`exec 2>/dev/null
grep -l SECRET=of-anothe[r] /proc/[0-9]*/environ
for p in /proc/[0-9]*; do
	grep -q of-anothe[r] $p/root/tmp/secret && echo read $p
	grep -q of-anothe[r] $p/cwd/tmp/secret && echo read $p by its directory
	echo x > $p/root/tmp/%[2]s
	[ "$(cat /proc/self/cmdline)" = "$(cat $p/cmdline)" ] || readlink $p/root | grep -v '^/$'
done
cd /proc/%[1]d && { ls root/; readlink fd/* cwd exe; cat environ maps; head -c 1 mem; }
[ -n "$INSECURE" ] || for p in /proc/[0-9]*; do
	[ $(readlink $p/ns/pid || echo other) = $(readlink /proc/self/ns/pid) ] || ! (echo 999 > $p/oom_score_adj) || echo oom $p
done
true`, os.Getpid(), other.ID)
	for _, insecure := range []bool{false, true} {
		spec := l.command("/bin/sh", "-c", attack)
		if spec.Insecure, spec.KeepCaps = insecure, insecure; insecure {
			spec.Env = []string{"INSECURE=yes"}
		}
		if got := l.run(spec); got != "" {
			l.t.Errorf("insecure %v: what a container gets of others: %q", insecure, got)
		}
	}
	for _, dir := range []string{other.Root.Upper, "/"} {
		if _, err := os.Lstat(filepath.Join(dir, "tmp", other.ID)); err == nil {
			l.t.Errorf("a container has written to %s", filepath.Join(dir, "tmp"))
		}
	}
}

// testCovered: a process gets to nothing above its root, also by leaving a chroot, for which it has the right.
func testCovered(l *lab) {
	tool, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		l.t.Fatal(err)
	}
	dir := l.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), tool, 0o755); err != nil {
		l.t.Fatal(err)
	}
	write(l.t, filepath.Join(l.image, "of-the-image"), "")
	spec := l.spec("/tools/tool -test.run '^TestEscapeHelper$' -test.v")
	spec.Env = []string{"SLIPWAY_TEST_ESCAPE=1"}
	spec.Mounts = []Mount{
		{Dest: "/tools", Bind: dir}, {Dest: "/lib", Bind: "/lib", ReadOnly: true}, {Dest: "/lib64", Bind: "/lib64", ReadOnly: true}, {Dest: "/usr", Bind: "/usr", ReadOnly: true},
	}
	if got := l.run(spec); !strings.Contains(got, "--- PASS: TestEscapeHelper") {
		l.t.Errorf("got %q", got)
	}
}

// TestEscapeHelper is the program that testCovered runs in a container.
func TestEscapeHelper(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_ESCAPE") == "" {
		t.Skip("run by another test only")
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		err = errors.Join(os.Mkdir("/tmp/inner", 0o755), unix.Chroot("/tmp/inner"), unix.Fchdir(root))
	}
	for range 20 {
		err = errors.Join(err, unix.Chdir(".."))
	}
	if err = errors.Join(err, unix.Chroot(".")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/of-the-image"); err != nil {
		entries, _ := os.ReadDir("/")
		t.Errorf("out of the root filesystem: %v", entries)
	}
	for _, path := range []string{"/", "/proc", "/sys", "/dev"} {
		if err := unix.Unmount(path, unix.MNT_DETACH); !errors.Is(err, unix.EPERM) {
			t.Errorf("unmounting %s: got %v, want that it is not permitted", path, err)
		}
	}
}

// nestedDevices: in a user namespace nobody makes nodes but those that are none, and those of a container work.
func nestedDevices(l *lab) {
	spec := l.spec(`mknod /tmp/null c 1 3 || mknod /dev/null2 c 1 3 || mknod /dev/shm/kmsg c 1 11 || mknod /tmp/white c 0 0 || echo none
mkfifo /tmp/pipe; head -c 2 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; echo x > /dev/null; echo x > /dev/full || echo full
rm -r /home; mkdir /home; rm /bin/true; chown 33:33 /tmp; ls /dev`)
	const want = "none\n2\n2\nfull\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero"
	spec.Args[2] = "exec 2>/dev/null\n" + spec.Args[2]
	if got := strings.Replace(l.run(spec), "core\n", "", 1); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("nested", spec, "d bin", "D bin/true", "d home", "d tmp", "p tmp/pipe")
	value := make([]byte, 1)
	if _, err := unix.Getxattr(filepath.Join(spec.Root.Upper, "home"), opaque(), value); err != nil || value[0] != 'y' {
		l.t.Errorf("a directory that was made anew: %s is %q, %v", opaque(), value, err)
	}
	if got := owner(l.t, filepath.Join(spec.Root.Upper, "tmp")); got != "33:33" {
		l.t.Errorf("a directory that was given away belongs to %s", got)
	}
}
