package initproc

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// guarded starts a shell command below a guardian.
func guarded(t *testing.T, scoped bool, command string, out *os.File) *Guardian {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	g, err := StartGuardian([3]int{int(null.Fd()), int(out.Fd()), int(out.Fd())}, int(null.Fd()), scoped)
	if err != nil {
		t.Fatal(err)
	}
	var c Calls
	c.Add("executing", unix.SYS_EXECVE, "/bin/sh", c.Strings([]string{"sh", "-c", command}), c.Strings([]string{"PATH=/usr/bin:/bin"}))
	message, err := c.Message()
	if err == nil {
		err = errors.Join(g.Send(message), g.Executed())
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGuardian: what a process has started ends with it, also what has left it, its session and its process group; how it
// ended is told.
func TestGuardian(t *testing.T) {
	for _, scoped := range []bool{false, true} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		g := guarded(t, scoped, `for i in 1 2 3; do setsid sh -c 'setsid sleep 1000 & echo $!; setsid sh -c "sleep 1000 & sleep 1000" & exit' & done; wait; exit 7`, write)
		write.Close()
		ws, err := g.Wait(func() {})
		if err != nil || ws.ExitStatus() != 7 {
			t.Errorf("scoped %v: got %v, %v, want exit code 7", scoped, ws.ExitStatus(), err)
		}
		text := make([]byte, 1000) // the pipe's end comes when nobody has it
		n, _ := read.Read(text)
		pids := strings.Fields(string(text[:n]))
		if len(pids) == 0 {
			t.Errorf("scoped %v: no process was started", scoped)
		}
		for _, pid := range pids {
			if n, err := strconv.Atoi(pid); err != nil || !errors.Is(unix.Kill(n, 0), unix.ESRCH) {
				t.Errorf("scoped %v: process %s is left, %v", scoped, pid, err)
			}
		}
		read.Close()
	}
}

// TestGuardianOfStranger: a process of a domain can neither signal nor look into who has started it, nor the guardian.
func TestGuardianOfStranger(t *testing.T) {
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1); errno != 0 {
		t.Skip("the kernel has no Landlock")
	}
	stranger := exec.Command("sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	g := guarded(t, true, "kill -0 $PPID && echo guardian; kill -0 "+strconv.Itoa(stranger.Process.Pid)+" && echo stranger; kill -0 "+
		strconv.Itoa(os.Getpid())+" && echo slipway; kill -9 -1; sleep 0.1 & kill -9 $! && echo own", out)
	ws, err := g.Wait(func() {})
	text, _ := os.ReadFile(out.Name())
	if err != nil || ws.ExitStatus() != 0 || !strings.HasSuffix(string(text), "own\n") {
		t.Errorf("got %v, %v, %q", ws, err, text)
	}
	for _, who := range []string{"guardian\n", "stranger\n", "slipway\n"} {
		if strings.Contains(string(text), who) {
			t.Errorf("it could signal %s: %q", who, text)
		}
	}
}

// TestGuardianKill: all end when slipway wants it.
func TestGuardianKill(t *testing.T) {
	for _, scoped := range []bool{false, true} {
		g := guarded(t, scoped, "setsid sleep 1000 & trap '' TERM; sleep 1000 & wait", os.Stderr)
		g.Kill()
		ws, err := g.Wait(func() {})
		if err != nil || !ws.Signaled() || ws.Signal() != unix.SIGKILL {
			t.Errorf("scoped %v: got %v, %v", scoped, ws, err)
		}
	}
}
