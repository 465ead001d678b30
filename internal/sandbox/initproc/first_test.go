package initproc

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSealed: what a container has as /proc/self/exe for a moment cannot be written to.
func TestSealed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	program, err := Seal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprint("/proc/self/fd/", program.Fd())
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil { // a copy in memory, which is opened, but sealed
		_, err = f.Write([]byte("x"))
		f.Close()
	}
	if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to the program: got %v", err)
	}
	if err := os.Truncate(path, 0); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating the program: got %v", err)
	}
}

// start runs calls in a first process without namespaces and returns how they ended.
func start(t *testing.T, calls *Calls) (unix.WaitStatus, error) {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	first, err := Start([3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Send(calls.Message()); err != nil {
		t.Fatal(err)
	}
	failed := first.Executed()
	ws, err := first.Wait(func() {})
	if err != nil {
		t.Fatal(err)
	}
	return ws, failed
}

func TestCalls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the program is sealed by root")
	}
	here := t.TempDir() + "/here"
	var c Calls
	missing := c.Add("opening", unix.SYS_OPENAT, unix.AT_FDCWD, "/no/such/file", unix.O_RDONLY).Forgive(unix.EPERM, unix.ENOENT)
	c.Add("not this", unix.SYS_MKDIRAT, unix.AT_FDCWD, here+"-not", 0o700).After(missing, unix.EPERM)
	made := c.Add("making", unix.SYS_MKDIRAT, unix.AT_FDCWD, here, 0o700).After(missing, unix.ENOENT)
	dir := c.Add("opening", unix.SYS_OPENAT, unix.AT_FDCWD, here, unix.O_RDONLY|unix.O_DIRECTORY).After(made, 0)
	c.Add("making", unix.SYS_MKDIRAT, dir, "below", 0o700)
	c.Add("executing", unix.SYS_EXECVE, "/bin/sh", c.Strings([]string{"sh", "-c", `test -d "$1/below" && test ! -e "$1-not" && exit 7`, "sh", here}), c.Strings(nil))
	if ws, err := start(t, &c); err != nil || ws.ExitStatus() != 7 {
		t.Errorf("got %v and exit code %d, want 7", err, ws.ExitStatus())
	}
	c = Calls{}
	c.Add("", unix.SYS_GETPID)
	c.Add("", unix.SYS_CHDIR, "/no/such/directory")
	var failed *Failed
	if _, err := start(t, &c); !errors.As(err, &failed) || failed.Call != 1 || failed.Errno != unix.ENOENT {
		t.Errorf("got %v, want that call 1 failed", err)
	}
	c = Calls{}
	c.Add("", unix.SYS_GETPID)
	if _, err := start(t, &c); !errors.As(err, &failed) || failed.Errno != unix.ECANCELED {
		t.Errorf("nothing executed: got %v", err)
	}
}
