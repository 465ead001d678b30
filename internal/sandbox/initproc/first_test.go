package initproc

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSealed: what a container has as /proc/self/exe for a moment cannot be written to, nor changed in another way, which
// would be to the harm of containers that come. No file is made for it where somebody else could come to it.
func TestSealed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	program, err := sealed()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprint("/proc/self/fd/", program.Fd())
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) {
			t.Errorf("%s the program: got %v", what, err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write([]byte("x"))
		f.Close()
	}
	denied("writing to", err)
	denied("truncating", os.Truncate(path, 0))
	denied("changing the mode of", os.Chmod(path, 0o400))
	denied("changing the owner of", os.Chown(path, 1, 1))
	denied("changing the times of", os.Chtimes(path, time.Time{}, time.Now()))
	denied("setting an attribute of", unix.Setxattr(path, "trusted.x", []byte("x"), 0))
	acl := []byte{2, 0, 0, 0, 1, 0, 4, 0, 255, 255, 255, 255, 4, 0, 0, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	denied("setting the access list of", unix.Setxattr(path, "system.posix_acl_access", acl, 0))
	if info, err := program.Stat(); err != nil || info.Size() > 64<<10 {
		t.Errorf("the program has %v bytes, %v: more than what first processes need", info.Size(), err)
	}
}

// TestStandsAlone: nothing in the section that is the program refers to something outside of it, which is not there.
func TestStandsAlone(t *testing.T) {
	for _, level := range []string{"-O0", "-O1", "-O2", "-O3", "-Os"} {
		object := t.TempDir() + "/program.o"
		if out, err := exec.Command("gcc", level, "-fPIC", "-fno-stack-protector", "-c", "program.c", "-o", object).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := elf.Open(object)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		symbols, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		section := slices.IndexFunc(f.Sections, func(s *elf.Section) bool { return s.Name == "first_program" })
		relocations := f.Section(".relafirst_program")
		if section < 0 || relocations == nil {
			t.Fatal("the object has no such program")
		}
		data, err := relocations.Data()
		if err != nil {
			t.Fatal(err)
		}
		for ; len(data) >= 24; data = data[24:] { // Elf64_Rela
			symbol := symbols[binary.LittleEndian.Uint32(data[12:])-1]
			if int(symbol.Section) != section {
				t.Errorf("%s: at %#x the program refers to %q", level, binary.LittleEndian.Uint64(data), symbol.Name)
			}
		}
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
	message, err := calls.Message()
	if err == nil {
		err = first.Send(message)
	}
	if err != nil {
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

// A text with a NUL character is not cut off.
func TestNUL(t *testing.T) {
	for _, text := range []string{"\x00", "a\x00b", "a\x00"} {
		var c Calls
		c.Add("executing", unix.SYS_EXECVE, "/bin/true", c.Strings([]string{"true", text}), c.Strings(nil))
		if _, err := c.Message(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// TestLimits: what the parent sets stays, also when the process gets its IDs after that.
func TestLimits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	first, err := Start([3]int{int(null.Fd()), int(null.Fd()), int(null.Fd())}, unix.CLONE_NEWUSER)
	if err != nil {
		t.Fatal(err)
	}
	var c Calls
	c.Add("executing", unix.SYS_EXECVE, "/bin/sh", c.Strings([]string{"sh", "-c", "exit $(ulimit -n)"}), c.Strings(nil))
	message, err := c.Message()
	for _, file := range []string{"uid_map", "gid_map"} {
		err = errors.Join(err, os.WriteFile(fmt.Sprintf("/proc/%d/%s", first.PID, file), []byte("0 0 1"), 0))
	}
	var limit unix.Rlimit
	err = errors.Join(err, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	limit.Cur = 77 // a lower maximum could not be raised again
	err = errors.Join(err, unix.Prlimit(first.PID, unix.RLIMIT_NOFILE, &limit, nil), first.Mapped(), first.Send(message), first.Executed())
	ws, werr := first.Wait(func() {})
	if err = errors.Join(err, werr); err != nil || ws.ExitStatus() != 77 {
		t.Errorf("the process may have %d files open, %v; want 77", ws.ExitStatus(), err)
	}
}

// startedVariable has this program start a first process that waits for its IDs, say so, and wait.
const startedVariable = "SLIPWAY_TEST_STARTED"

func TestMain(m *testing.M) {
	if os.Getenv(startedVariable) == "" {
		os.Exit(m.Run())
	}
	first, err := Start([3]int{0, 2, 2}, unix.CLONE_NEWUSER)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(first.PID)
	select {}
}

// TestKilledParent: a first process that still waits for its IDs ends with its parent, and has nothing of it meanwhile.
func TestKilledParent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	opened, err := os.Create(t.TempDir() + "/opened")
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), startedVariable+"=1")
	cmd.ExtraFiles = []*os.File{opened, opened, opened, opened}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	if err != nil {
		t.Error(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Error(err)
	}
	defer unix.Close(pidfd)
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("waited in vain for %s", what)
				return
			}
		}
	}
	until("a first process without its parent's files", func() bool {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		return err == nil && len(open) == 5
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	until("the end of a first process without a parent", func() bool {
		return errors.Is(unix.PidfdSendSignal(pidfd, 0, nil, 0), unix.ESRCH)
	})
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) // of a test that failed
}
