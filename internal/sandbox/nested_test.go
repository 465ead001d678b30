package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// opaque is the name of overlayfs's attribute of an opaque directory.
func opaque() string {
	if nested() {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// inNested has tests run as root of a user namespace with IDs of the host from first on.
func inNested(t *testing.T, first, count int, run string) {
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
	if err := os.Chown(dir, first, first); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run", run)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, Pdeathsig: unix.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: Test") {
		t.Errorf("in a user namespace: %v\n%s", err, failures(string(out)))
	}
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

// TestNested: root of a user namespace that has all IDs runs what root runs.
func TestNested(t *testing.T) {
	inNested(t, firstNested, idCount, "^(TestLibcontainer|TestOlderKernel)$")
}

// firstNested is none of anybody's IDs.
const firstNested = firstID - 2*idCount

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
