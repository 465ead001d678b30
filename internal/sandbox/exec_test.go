package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// started is a container that runs until it is told to end.
type started struct {
	l    *lab
	spec *Spec
	end  context.CancelFunc
	done chan error
}

// start runs a spec's command and waits until it has begun.
func (l *lab) start(spec *Spec) *started {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c := &started{l: l, spec: spec, end: cancel, done: make(chan error, 1)}
	begun := make(chan struct{})
	var out lockedBuffer
	go func() {
		c.done <- l.runner.Run(ctx, spec, IO{Stdout: &out, Stderr: &out, Started: func() { close(begun) }})
	}()
	select {
	case <-begun:
	case err := <-c.done:
		l.t.Fatalf("starting %q: %v; output: %s", spec.Args, err, out.String())
	}
	l.t.Cleanup(func() { c.stop() })
	return c
}

// stop ends the container and gives how it ended.
func (c *started) stop() error {
	c.end()
	err := <-c.done
	c.done <- err
	return err
}

// exec runs a script in the container.
func (c *started) exec(script string) (string, error) {
	return c.execute(&Process{Args: []string{"sh", "-c", script}}, IO{})
}

func (c *started) execute(p *Process, streams IO) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out lockedBuffer
	streams.Stdout = &out
	if !p.Terminal {
		streams.Stderr = &out
	}
	err := c.l.runner.Exec(ctx, c.spec.ID, p, streams)
	return strings.TrimSpace(out.String()), err
}

func (c *started) must(script string) string {
	c.l.t.Helper()
	out, err := c.exec(script)
	if err != nil {
		c.l.t.Fatalf("running %q in a container: %v; output: %s", script, err, out)
	}
	return out
}

// idle is a container that does nothing.
func (l *lab) idle(change func(*Spec)) *started {
	l.t.Helper()
	spec := l.command("sh", "-c", "echo first > /tmp/first; while :; do sleep 1000; done")
	if change != nil {
		change(spec)
	}
	return l.start(spec)
}

// view is what a process sees of where it is, and may do.
const view = `for ns in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$ns; done
grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status
cat /proc/self/cgroup /proc/self/attr/current 2>/dev/null
ls /proc/self/fd | wc -l; umask; hostname; pwd; cat /proc/sys/kernel/hostname`

// testExec: one more process of a container is in nothing that the first one is not in, and may do nothing that it may not.
func testExec(l *lab) {
	if !l.linked {
		if _, err := l.idle(nil).exec("true"); err == nil || !strings.Contains(err.Error(), "--runtime") {
			l.t.Errorf("one more process of an OCI runtime's container: got %v", err)
		}
		return
	}
	for name, change := range map[string]func(*Spec){
		"default": nil,
		"bridge":  func(s *Spec) { s.Network = NetworkBridge },
		"none":    func(s *Spec) { s.Network = NetworkNone },
		"userns":  func(s *Spec) { s.UserNS = true },
		"bounded": func(s *Spec) { s.MaxProcesses = 100 },
		"limited": func(s *Spec) { s.Resources = Resources{Pids: 50} },
		"caps":    func(s *Spec) { s.CapDrop = []string{AllCapabilities}; s.CapAdd = []string{"CAP_CHOWN"} },
		"insecure": func(s *Spec) {
			s.Insecure, s.KeepCaps = true, true
		},
	} {
		if name == "limited" && !canMakeCgroups() || name == "userns" && nested() {
			continue
		}
		spec := l.command("sh", "-c", view+"; echo end; while :; do sleep 1000; done")
		if change != nil {
			change(spec)
		}
		if spec.UserNS && spec.Insecure {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		var first lockedBuffer
		ended, begun := make(chan error, 1), make(chan struct{})
		read, write := io.Pipe()
		go func() {
			ended <- l.runner.Run(ctx, spec, IO{Stdout: io.MultiWriter(&first, write), Stderr: &first, Started: func() { close(begun) }})
			write.Close()
		}()
		var seen bytes.Buffer
		for buf := make([]byte, 4096); !strings.Contains(seen.String(), "end\n"); {
			n, err := read.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				l.t.Fatalf("%s: %v: %s", name, <-ended, first.String())
			}
		}
		<-begun // what it prints may come before that
		c := &started{l: l, spec: spec}
		got, err := c.exec(view)
		want := strings.TrimSpace(strings.TrimSuffix(seen.String(), "end\n"))
		if err != nil || got != want {
			l.t.Errorf("%s: one more process sees, %v:\n%s\nthe first one saw:\n%s", name, err, got, want)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			l.t.Errorf("%s: the container ended with %v", name, err)
		}
	}
}

// testExecProcess: what is said of a process counts for it.
func testExecProcess(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(func(s *Spec) { s.Env = []string{"OF_FIRST=1"} })
	if got := c.must("until [ -s /tmp/first ]; do :; done; cat /tmp/first; echo $OF_FIRST; pwd; id -u; echo more > /tmp/more"); got != "first\n\n/\n0" {
		l.t.Errorf("one more process tells %q", got)
	}
	out, err := c.execute(&Process{Args: []string{"sh", "-c", "id; pwd; echo $A $HOME; cat"}, Env: []string{"A=b"}, Cwd: "/tmp", User: "user"}, IO{Stdin: strings.NewReader("input")})
	if want := "uid=1000(user) gid=1001(users) groups=50(staff),10(wheel),1001(users)\n/tmp\nb /home/user\ninput"; err != nil || len(out) != len(want) || !strings.Contains(out, "\n/tmp\nb /home/user\ninput") {
		l.t.Errorf("a process with a user: got %v, %q, want %q", err, out, want)
	}
	var exit *ExitError
	if _, err := c.exec("exit 7"); !errors.As(err, &exit) || exit.Code != 7 {
		l.t.Errorf("exit 7: got %v", err)
	}
	if _, err := c.exec("kill -9 $$"); !errors.As(err, &exit) || exit.Signal != 9 {
		l.t.Errorf("kill -9: got %v", err)
	}
	for want, p := range map[error]*Process{
		ErrCommandNotFound:      {Args: []string{"nosuch"}},
		ErrCommandNotExecutable: {Args: []string{"/etc/passwd"}},
	} {
		if _, err := c.execute(p, IO{}); !errors.Is(err, want) {
			l.t.Errorf("%q: got %v, want %v", p.Args, err, want)
		}
	}
	for _, p := range []*Process{{}, {Args: []string{"true"}, Cwd: "tmp"}, {Args: []string{"true"}, User: "nobody-here"}, {Args: []string{"true"}, Cwd: "/not/there"}, {Args: []string{"a\x00b"}}} {
		if _, err := c.execute(p, IO{}); err == nil || errors.As(err, &exit) {
			l.t.Errorf("%+v: got %v, want an error", p, err)
		}
	}
	if got := c.must("cat /tmp/more"); got != "more" {
		l.t.Errorf("what a process wrote is %q for the next one", got)
	}
	if err := c.stop(); !errors.Is(err, context.Canceled) {
		l.t.Errorf("the container ended with %v", err)
	}
	if _, err := c.exec("true"); !errors.Is(err, ErrNotRunning) {
		l.t.Errorf("in a container that has ended: got %v, want %v", err, ErrNotRunning)
	}
	if _, err := os.Stat(c.spec.Root.Upper + "/tmp/more"); err != nil {
		l.t.Errorf("what a process wrote is not in the upper directory: %v", err)
	}
}

// testExecPrivileged: a privileged process has all rights of a process, in a container whose other processes have not.
func testExecPrivileged(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	out, err := c.execute(&Process{Args: []string{"sh", "-c", "mount -t tmpfs x /tmp && grep ^Seccomp: /proc/self/status && umount /tmp"}, Privileged: true}, IO{})
	if err != nil || !strings.Contains(out, "\t"+ownSeccomp(l.t)) {
		l.t.Errorf("a privileged process: got %v, %q", err, out)
	}
	if out, err := c.exec("mount -t tmpfs x /tmp"); err == nil {
		l.t.Errorf("another process could mount: %q", out)
	}
}

// testExecTerminal: a process has a terminal of its own, of the size that it is given.
func testExecTerminal(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	sizes := make(chan WinSize, 1)
	sizes <- WinSize{Rows: 33, Cols: 44}
	out, err := c.execute(&Process{Args: []string{"sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '33 44' ]; do :; done; tty; echo $TERM"}, Terminal: true}, IO{Resize: sizes})
	if err != nil || !strings.HasPrefix(out, "/dev/pts/") || !strings.Contains(out, "xterm") {
		l.t.Errorf("a process with a terminal: got %v, %q", err, out)
	}
	out, err = c.execute(&Process{Args: []string{"stty", "size"}, Terminal: true, Size: WinSize{Rows: 20, Cols: 60}}, IO{})
	if err != nil || strings.TrimSpace(out) != "20 60" {
		l.t.Errorf("the size to begin with: got %v, %q", err, out)
	}
}

// testExecEnds: signals reach the process that they are for; a context ends it alone; and with the first process all end.
func testExecEnds(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	wait := func(ctx context.Context, signals <-chan int, begun func()) chan error {
		done := make(chan error, 1)
		go func() {
			done <- l.runner.Exec(ctx, c.spec.ID, &Process{Args: []string{"sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.01; done"}}, IO{Signals: signals, Started: begun})
		}()
		return done
	}
	begin := func(ctx context.Context, signals <-chan int) chan error {
		begun := make(chan struct{})
		done := wait(ctx, signals, func() { close(begun) })
		<-begun
		return done
	}
	signals := make(chan int)
	first := begin(context.Background(), signals)
	ctx, cancel := context.WithCancel(context.Background())
	second := begin(ctx, nil)
	third := begin(context.Background(), nil)
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		l.t.Errorf("a process whose context ended: got %v", err)
	}
	var exit *ExitError
	for ended := false; !ended; { // the trap may not be set yet, when the signal kills it
		select {
		case signals <- 10:
		case err := <-first:
			ended = true
			if !errors.As(err, &exit) || exit.Code != 5 && exit.Signal != 10 {
				l.t.Errorf("a process that got a signal: got %v", err)
			}
		}
	}
	c.end()
	if err := <-third; !errors.As(err, &exit) || exit.Signal != 9 {
		l.t.Errorf("a process of a container that ended: got %v", err)
	}
	if _, err := c.exec("true"); !errors.Is(err, ErrNotRunning) {
		l.t.Errorf("in a container that ends: got %v", err)
	}
}

// testExecHeldStreams: a process has ended although one that it started has its streams.
func testExecHeldStreams(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	if got := c.must("sleep 1000 & echo gone"); got != "gone" {
		l.t.Errorf("got %q", got)
	}
}

// testExecMany: many processes come and go at the same time, and while their container ends.
// testExecSlow: what a process has printed is not lost where who gets it takes longer than others are waited for.
func testExecSlow(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	w := &slowWriter{ended: make(chan struct{})}
	p := &Process{Args: []string{"sh", "-c", "head -c 60000 /dev/zero; sleep 1000 & exit 3"}}
	err := l.runner.Exec(l.t.Context(), c.spec.ID, p, IO{Stdout: w, Used: func(Usage) { close(w.ended) }})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || w.got != 60000 {
		l.t.Errorf("got %d bytes, %v", w.got, err)
	}
}

// slowWriter takes nothing before a process has ended, and for longer than others may be silent.
type slowWriter struct {
	ended chan struct{}
	got   int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.got == 0 {
		<-w.ended
		time.Sleep(execDrain + 2*drainTime)
	}
	w.got += len(p)
	return len(p), nil
}

func testExecMany(l *lab) {
	if !l.linked {
		return
	}
	c := l.idle(nil)
	done := make(chan error)
	const count = 20
	for i := range count {
		go func() {
			out, err := c.exec(fmt.Sprintf("echo %d", i))
			if err == nil && out != fmt.Sprint(i) {
				err = fmt.Errorf("got %q, want %d", out, i)
			}
			done <- err
		}()
	}
	for range count {
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	}
	for range count {
		go func() {
			for {
				if _, err := c.exec("true"); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	c.end()
	for range count {
		var exit *ExitError
		if err := <-done; !errors.Is(err, ErrNotRunning) && !(errors.As(err, &exit) && exit.Signal == 9) && !strings.Contains(err.Error(), "starting the") {
			l.t.Errorf("a process of a container that ends: got %v", err)
		}
	}
}
