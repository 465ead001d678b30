package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHelper is the program that the tests here kill. It runs a script for each line of its input, all at a time.
func TestHelper(t *testing.T) {
	dir := os.Getenv("SLIPWAY_TEST_HELPER")
	if dir == "" {
		t.Skip("run by another test only")
	}
	r, err := New(Options{StateDir: filepath.Join(dir, "state"), RuntimeBinary: os.Getenv("SLIPWAY_TEST_RUNTIME")})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	scripts := bufio.NewScanner(os.Stdin)
	for n := 0; scripts.Scan(); n++ {
		id := fmt.Sprint(os.Getenv("SLIPWAY_TEST_ID"), n)
		upper, work := filepath.Join(dir, id, "upper"), filepath.Join(dir, id, "work")
		mkdir(t, upper, work)
		spec := &Spec{ID: id, Network: NetworkHost, UserNS: os.Getenv("SLIPWAY_TEST_USERNS") != "", Args: []string{"sh", "-c", scripts.Text()},
			Root: Root{Lower: []string{os.Getenv("SLIPWAY_TEST_IMAGE")}, Upper: upper, Work: work}, MaxProcesses: 100}
		all.Go(func() {
			if err := r.Run(context.Background(), spec, IO{Stdout: os.Stdout}); err != nil {
				fmt.Println("error:", err)
			}
		})
	}
	all.Wait()
	Close()
}

// helper is a process of TestHelper.
type helper struct {
	l       *lab
	cmd     *exec.Cmd
	out     lockedBuffer
	in      io.WriteCloser
	id      string // of its containers, without their numbers
	mark    string // an argument of processes of its containers
	started int
}

func (l *lab) helper() *helper {
	l.t.Helper()
	n := ids.Add(1)
	h := &helper{l: l, mark: fmt.Sprintf("8%d.%d", os.Getpid(), n), cmd: exec.Command("/proc/self/exe", "-test.run", "^TestHelper$")}
	h.id = fmt.Sprintf("slipway-test-%d-killed-%d-", os.Getpid(), n)
	h.cmd.Env = append(os.Environ(), "SLIPWAY_TEST_HELPER="+l.t.TempDir(), "SLIPWAY_TEST_IMAGE="+l.image, "SLIPWAY_TEST_ID="+h.id)
	if !l.linked {
		h.cmd.Env = append(h.cmd.Env, "SLIPWAY_TEST_RUNTIME=runc")
	}
	if l.userns {
		h.cmd.Env = append(h.cmd.Env, "SLIPWAY_TEST_USERNS=1")
	}
	h.cmd.Stdout = &h.out
	in, err := h.cmd.StdinPipe()
	if err = errors.Join(err, h.cmd.Start()); err != nil {
		l.t.Fatal(err)
	}
	h.in = in
	l.t.Cleanup(func() {
		h.kill()
		for _, pid := range processesOf(l.t, h.mark) { // of a test that failed
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for i := range h.started { // what is killed leaves its cgroups, empty
			if err := removeCgroups(fmt.Sprint("/", h.id, i)); err != nil {
				l.t.Error(err)
			}
			for _, guard := range h.guards(i) {
				if err := removeCgroup(guard); err != nil {
					l.t.Error(err)
				}
			}
		}
	})
	return h
}

// run runs a script, which says when it is ready.
func (h *helper) run(script string) {
	h.l.t.Helper()
	h.started++
	ready := fmt.Sprint("ready-", h.started)
	script = strings.NewReplacer("MARK", h.mark, "READY", ready).Replace(script)
	if _, err := fmt.Fprintln(h.in, script); err != nil {
		h.l.t.Fatal(err)
	}
	h.l.until(ready, func() bool {
		out := h.out.String()
		if strings.Contains(out, "error:") {
			h.l.t.Fatalf("running %q: %s", script, out)
		}
		return strings.Contains(out, ready)
	})
}

// guards are the guards' cgroups of a container.
func (h *helper) guards(container int) (dirs []string) {
	for _, parent := range []string{ownCgroupOf("pids"), devicesCgroup(), unifiedCgroup()} {
		if parent != "" {
			dirs = append(dirs, filepath.Join(parent, fmt.Sprint(guardPrefix, h.id, container)))
		}
	}
	return dirs
}

// end lets the helper end with its containers.
func (h *helper) end() {
	h.l.t.Helper()
	if err := errors.Join(h.in.Close(), h.cmd.Wait()); err != nil {
		h.l.t.Error(err)
	}
}

func (h *helper) kill() {
	_ = h.cmd.Process.Kill() // it may be dead
	_ = h.cmd.Wait()
}

// wantEnd kills the helper and wants its containers to end.
func (h *helper) wantEnd() {
	h.l.t.Helper()
	if processes(h.l.t, h.mark) == 0 {
		h.l.t.Fatal("the test does not see the processes that it wants to see die")
	}
	h.kill()
	h.l.until("the end of the processes of a killed parent", func() bool { return processes(h.l.t, h.mark) == 0 })
}

// watchdog finds the helper's watchdog, another one than the last.
func (h *helper) watchdog(last int) (pid int) {
	h.l.t.Helper()
	h.l.until("a watchdog", func() bool {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", h.cmd.Process.Pid))
		for _, path := range children {
			text, _ := os.ReadFile(path) // the thread may have ended
			for _, child := range strings.Fields(string(text)) {
				environ, _ := os.ReadFile("/proc/" + child + "/environ")
				if strings.Contains(string(environ), "_SLIPWAY_WATCHDOG=") && child != fmt.Sprint(last) {
					_, err := fmt.Sscan(child, &pid)
					return err == nil
				}
			}
		}
		return false
	})
	return pid
}

// until waits for something.
func (l *lab) until(what string, done func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// withoutSignal is a script whose process has not the signal that the kernel sends it at its parent's end: that is
// gone with a change of the user.
const withoutSignal = "exec su user -c 'sleep MARK & echo READY; sleep MARK; true'"

func testKilledParent(l *lab) {
	for _, script := range []string{"sleep MARK & (sleep MARK &); echo READY; sleep MARK; true", withoutSignal} {
		h := l.helper()
		h.run(script)
		h.wantEnd()
	}
}

// testKilledWatchdog: another one takes its place, for what ran before and for what comes.
func testKilledWatchdog(l *lab) {
	if !l.linked {
		return // the runtime is in a pid namespace that ends with it
	}
	h := l.helper()
	h.run(withoutSignal)
	first := h.watchdog(0)
	for _, next := range []func(){
		func() {}, // while nothing else happens
		func() { h.run(withoutSignal) },
	} {
		if err := unix.Kill(first, unix.SIGKILL); err != nil {
			l.t.Fatal(err)
		}
		next()
		first = h.watchdog(first)
	}
	h.run(withoutSignal)
	h.wantEnd()
}

// watch has a keeper watch a process, which is returned.
func watch(t *testing.T, k *keeper, program string) (*exec.Cmd, error) {
	t.Helper()
	cmd := exec.Command(busybox, "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead
		_ = cmd.Wait()
	})
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	return cmd, k.watch(pidfd, program)
}

// wantKilled waits for the end of a process that was watched.
func wantKilled(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process that was watched ended with %v, want it killed", err)
	}
}

func TestWatchdog(t *testing.T) {
	var k keeper
	cmd, err := watch(t, &k, self)
	if err != nil {
		t.Fatal(err)
	}
	k.close()
	wantKilled(t, cmd)
}

// A watchdog that dies each time is not started for ever, also when it has to be told of what runs, and dies over that.
func TestWatchdogThatDies(t *testing.T) {
	program := filepath.Join(t.TempDir(), "false")
	if err := os.Symlink(busybox, program); err != nil {
		t.Fatal(err)
	}
	for _, running := range []int{0, 1000} { // more than it can be sent before it reads
		var k keeper
		if running > 0 {
			if _, err := watch(t, &k, self); err != nil {
				t.Fatal(err)
			}
			k.mu.Lock()
			for len(k.watched) < running {
				fd, err := unix.FcntlInt(uintptr(k.watched[0]), unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				k.watched = append(k.watched, fd)
			}
			k.stop()
			k.mu.Unlock()
		}
		_, err := watch(t, &k, program)
		l := &lab{t: t}
		l.until("the last try", func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.dog == nil && (err != nil || k.again == 0)
		})
		if err != nil && !useless(err) || err == nil && running > 0 {
			t.Errorf("with %d: %v", running, err)
		}
		k.close()
	}
}

// A watchdog that was stopped holds nobody up: another one takes its place when it can be sent no more, and it is killed
// in the end.
func TestStoppedWatchdog(t *testing.T) {
	good := watchdogPatience
	t.Cleanup(func() { watchdogPatience = good })
	watchdogPatience = 100 * time.Millisecond
	program := filepath.Join(t.TempDir(), "stopped")
	if err := os.WriteFile(program, []byte("#!"+busybox+" sh\nkill -STOP $$\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, full := range []bool{false, true} {
		var k keeper
		cmd, err := watch(t, &k, program)
		if err != nil {
			t.Fatal(err)
		}
		stopped := k.dog
		pidfd := k.watched[0]
		for full && err == nil {
			err = stopped.Watch(pidfd, watchdogPatience)
		}
		for n := 0; full && k.dog == stopped; n++ {
			if err := k.watch(pidfd, self); err != nil {
				t.Fatal(err)
			}
			if n > 1000 {
				t.Fatal("a watchdog that was stopped goes on to be sent what runs")
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.close()
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("a watchdog that was stopped does not end")
		}
		wantKilled(t, cmd)
	}
}
