package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testExitCodes(l *lab) {
	if out := l.run(l.spec("echo fine")); out != "fine" {
		l.t.Errorf("output: got %q, want fine", out)
	}
	for _, code := range []int{1, 7, 126, 200, 255} {
		var exit *ExitError
		_, err := l.try(l.spec(fmt.Sprint("exit ", code)))
		if !errors.As(err, &exit) || *exit != (ExitError{Code: code}) {
			l.t.Errorf("exit %d: got %v", code, err)
		}
	}
}

func testCommandErrors(l *lab) {
	noExec := l.spec("true")
	write(l.t, filepath.Join(l.image, "bin", "plain"), "text")
	for name, c := range map[string]struct {
		args []string
		want error
	}{
		"missing in PATH": {[]string{"no-such-program"}, ErrCommandNotFound},
		"missing path":    {[]string{"/bin/no-such-program"}, ErrCommandNotFound},
		"not executable":  {[]string{"/bin/plain"}, ErrCommandNotExecutable},
		"directory":       {[]string{"/etc"}, ErrCommandNotExecutable},
	} {
		spec := l.command(c.args...)
		_, err := l.try(spec)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.args[0]) {
			l.t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	cutOff := l.command("echo", "shown\x00hidden")
	if out, err := l.try(cutOff); err == nil || l.linked && !errors.Is(err, unix.EINVAL) {
		l.t.Errorf("an argument with a NUL character: got %q, %v", out, err)
	}
	for name, change := range map[string]func(*Spec){
		"id":      func(s *Spec) { s.ID = "../x" },
		"args":    func(s *Spec) { s.Args = nil },
		"cwd":     func(s *Spec) { s.Cwd = "relative" },
		"network": func(s *Spec) { s.Network = "moon" },
		"work":    func(s *Spec) { s.Root.Work = "" },
	} {
		spec := *noExec
		change(&spec)
		if _, err := l.try(&spec); err == nil {
			l.t.Errorf("a spec with a bad %s was run", name)
		}
	}
}

// waitFor returns when a writer has got text, or fails.
func waitFor(l *lab, b *lockedBuffer, text string) {
	l.t.Helper()
	for range 6000 {
		if strings.Contains(b.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("no %q in the output %q", text, b.String())
}

func testSignals(l *lab) {
	for _, c := range []struct {
		send int
		want ExitError
	}{
		{15, ExitError{Code: 5}},
		{9, ExitError{Code: 137, Signal: 9}},
	} {
		signals, result := make(chan int), make(chan error, 1)
		var out lockedBuffer
		go func() {
			result <- l.runner.Run(context.Background(), l.spec("trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done"),
				IO{Stdout: &out, Signals: signals})
		}()
		waitFor(l, &out, "ready")
		signals <- c.send
		var exit *ExitError
		select {
		case err := <-result:
			if !errors.As(err, &exit) || *exit != c.want {
				l.t.Errorf("signal %d: got %v, want %v", c.send, err, &c.want)
			}
		case <-time.After(time.Minute):
			l.t.Fatalf("signal %d: the process goes on", c.send)
		}
	}
}

// nohup, and a shell for what is in the background, start programs that ignore signals; what slipway starts does not.
func testIgnoredSignals(l *lab) {
	if !l.linked {
		return // another runtime's affair
	}
	signal.Ignore(unix.SIGHUP, unix.SIGTSTP)
	defer signal.Reset(unix.SIGHUP, unix.SIGTSTP)
	if out := l.run(l.command("grep", "^SigIgn", "/proc/self/status")); strings.TrimLeft(strings.TrimPrefix(out, "SigIgn:\t"), "0") != "" {
		l.t.Errorf("got %q, want none ignored", out)
	}
}

func testOutput(l *lab) {
	dir := l.t.TempDir()
	spec := l.spec("echo one; echo error >&2; until test -e /sync/go; do sleep 0.02; done; echo two")
	spec.Mounts = []Mount{{Dest: "/sync", Bind: dir}}
	var out, errs lockedBuffer
	result := make(chan error, 1)
	go func() { result <- l.runner.Run(context.Background(), spec, IO{Stdout: &out, Stderr: &errs}) }()
	waitFor(l, &out, "one") // while the process runs: it waits for the file
	waitFor(l, &errs, "error")
	write(l.t, filepath.Join(dir, "go"), "")
	if err := <-result; err != nil {
		l.t.Fatal(err)
	}
	if out.String() != "one\ntwo\n" || errs.String() != "error\n" {
		l.t.Errorf("got stdout %q and stderr %q", out.String(), errs.String())
	}
	// A writer that fails does not stop the process, and one with both streams keeps the order.
	if err := l.runner.Run(context.Background(), l.spec("yes | head -c 1000000"), IO{Stdout: failingWriter{}}); err != nil {
		l.t.Errorf("with a failing writer: %v", err)
	}
	if got := l.run(l.spec("for i in 1 2 3; do echo o$i; echo e$i >&2; done")); l.linked && got != "o1\ne1\no2\ne2\no3\ne3" {
		l.t.Errorf("both streams in one writer: got %q", got)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

// blockingReader blocks for ever, as a terminal does on which nobody types.
type blockingReader struct{}

func (blockingReader) Read([]byte) (int, error) { select {} }

func testStdin(l *lab) {
	var out bytes.Buffer
	if err := l.runner.Run(context.Background(), l.command("cat"), IO{Stdin: strings.NewReader("hello"), Stdout: &out}); err != nil || out.String() != "hello" {
		l.t.Errorf("cat: got %q, %v", out.String(), err)
	}
	if err := l.runner.Run(context.Background(), l.command("true"), IO{Stdin: blockingReader{}}); err != nil {
		l.t.Errorf("with a blocking reader: %v", err)
	}
	if got := l.run(l.command("cat")); got != "" {
		l.t.Errorf("no stdin: got %q, want it empty", got)
	}
	if err := l.runner.Run(context.Background(), l.spec("yes | head -c 1000000; yes | head -c 1000000 >&2"), IO{}); err != nil {
		l.t.Errorf("no output: %v", err)
	}
	if l.linked { // runc has pipes of its own in between
		if err := l.runner.Run(context.Background(), l.spec("test -c /dev/stdin && test -c /dev/stdout && test -c /dev/stderr"), IO{}); err != nil {
			l.t.Errorf("no streams: want /dev/null: %v", err)
		}
	}
	// Descriptors of this process stay here, also those without close-on-exec.
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(fd)
	// The fourth is the shell's own, on the directory.
	if got := l.run(l.spec("cd /proc/self/fd; echo *; true")); got != "0 1 2 3" {
		l.t.Errorf("open descriptors: got %v", got)
	}
}

func testTerminal(l *lab) {
	spec := l.spec("echo begins with $(stty size); tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; until test \"$(stty size)\" = '33 77'; do sleep 0.02; done; " +
		"echo resized; read line; echo got $line; exit 3")
	spec.Terminal, spec.Size = true, WinSize{Rows: 20, Cols: 60}
	var out lockedBuffer
	sizes, result := make(chan WinSize), make(chan error, 1)
	stdin, typed, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer stdin.Close()
	defer typed.Close()
	go func() {
		result <- l.runner.Run(context.Background(), spec, IO{Stdin: stdin, Stdout: &out, Resize: sizes})
	}()
	waitFor(l, &out, "terminal")
	sizes <- WinSize{Rows: 33, Cols: 77}
	waitFor(l, &out, "resized") // through two terminals with a runtime binary
	if _, err := typed.WriteString("words\n"); err != nil {
		l.t.Fatal(err)
	}
	var exit *ExitError
	if err := <-result; !errors.As(err, &exit) || exit.Code != 3 {
		l.t.Errorf("got %v, want exit code 3", err)
	}
	all := []string{"/dev/pts/0", "got words"}
	if l.linked { // a runtime binary is told through its own terminal
		all = append(all, "begins with 20 60")
	}
	for _, want := range all {
		if !strings.Contains(out.String(), want) {
			l.t.Errorf("no %q in the terminal's output %q", want, out.String())
		}
	}
}

func testEnvironment(l *lab) {
	spec := l.command("env")
	spec.Env = []string{"A=1", "B=x y"}
	want := "A=1\nB=x y\n" + defaultPath + "\nHOME=/root"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	spec = l.command("busybox", "env")
	spec.Env, spec.User = []string{"PATH=/nowhere:/bin", "HOME=/h"}, "user"
	if got := l.run(spec); got != "PATH=/nowhere:/bin\nHOME=/h" {
		l.t.Errorf("with own PATH and HOME: got %q", got)
	}
	spec = l.spec("true")
	spec.Env = []string{"PATH=/nowhere"}
	if _, err := l.try(spec); !errors.Is(err, ErrCommandNotFound) {
		l.t.Errorf("a command outside of PATH: got %v", err)
	}
}

func testUsers(l *lab) {
	for user, want := range map[string]string{
		"":           "0 0 root:root 0 /root",
		"user":       "1000 1001 10 1001 50 /home/user",
		"1000":       "1000 1001 10 1001 50 /home/user",
		"user:staff": "1000 50 50 /home/user",
		"1000:7":     "1000 7 7 /home/user",
		"4321":       "4321 0 0 /",
		"4321:1234":  "4321 1234 1234 /",
	} {
		spec := l.spec("echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | busybox sort -u) $HOME")
		spec.User = user
		want = strings.Replace(want, "root:root ", "", 1)
		got := strings.Fields(l.run(spec))
		if strings.Join(got, " ") != want {
			l.t.Errorf("user %q: got %v, want %s", user, got, want)
		}
	}
	for _, user := range []string{"nobody-such", "user:nogroup", "nobody-such:0"} {
		spec := l.command("true")
		spec.User = user
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), user) {
			l.t.Errorf("unknown user %s: got %v", user, err)
		}
	}
}

// testOddUserFiles: the files that users are looked up in are the image's, whatever they are.
func testOddUserFiles(l *lab) {
	passwd := filepath.Join(l.image, "etc/passwd")
	host := filepath.Join(l.t.TempDir(), "passwd")
	write(l.t, host, "hosts:x:7:7::/:/bin/sh\n")
	for what, make := range map[string]func() error{
		"a link to the host's file": func() error { return os.Symlink(host, passwd) },
		"links that go round":       func() error { return os.Symlink("passwd", passwd) },
		"a named pipe":              func() error { return unix.Mkfifo(passwd, 0o666) },
		"a device":                  func() error { return unix.Mknod(passwd, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"a socket":                  func() error { return unix.Mknod(passwd, unix.S_IFSOCK|0o666, 0) },
	} {
		if what == "a device" && nested() {
			continue
		}
		if err := errors.Join(os.Remove(passwd), make()); err != nil {
			l.t.Fatal(err)
		}
		spec := l.command("true")
		spec.User = "hosts"
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "/etc/passwd") {
			l.t.Errorf("%s: got %v, want an error about /etc/passwd", what, err)
		}
	}
}

// processes counts the processes on the host whose command line has text.
func processes(t testing.TB, text string) int { return len(processesOf(t, text)) }

func processesOf(t testing.TB, text string) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(text)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func testCancel(l *lab) {
	cause := errors.New("somebody pressed a key")
	mark := fmt.Sprintf("9%d.%d", os.Getpid(), ids.Add(1))
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var out lockedBuffer
	result := make(chan error, 1)
	script := "trap '' TERM INT HUP; (trap '' TERM; sleep " + mark + ") & (sleep " + mark + " &); echo ready; sleep " + mark
	go func() { result <- l.runner.Run(ctx, l.spec(script), IO{Stdout: &out, Stderr: &out}) }()
	waitFor(l, &out, "ready")
	if processes(l.t, mark) == 0 {
		l.t.Fatal("the test does not see the processes that it wants to see die")
	}
	start := time.Now()
	cancel(cause)
	select {
	case err := <-result:
		if !errors.Is(err, cause) {
			l.t.Errorf("got %v, want %v", err, cause)
		}
	case <-time.After(time.Minute):
		l.t.Fatal("the run goes on after its context's end")
	}
	if took := time.Since(start); took > 8*time.Second { // Docker gives ten
		l.t.Errorf("cancelling took %v", took)
	}
	if n := processes(l.t, mark); n != 0 {
		l.t.Errorf("%d processes are left", n)
	}
	if err := l.runner.Run(ctx, l.spec("true"), IO{}); !errors.Is(err, cause) {
		l.t.Errorf("running with an ended context: got %v", err)
	}
}

// testCancelAnyTime ends the context while a container is being prepared or started.
// testLeftovers: what a process left running ends with it, however it was started.
func testLeftovers(l *lab) {
	mark := fmt.Sprintf("7%d.%d", os.Getpid(), ids.Add(1))
	spec := l.spec(`(busybox setsid sh -c 'trap "" HUP INT TERM QUIT; echo ready > /ready; sleep ` + mark + `; sleep ` + mark + `' > /dev/null 2>&1 &)
sh -c 'sleep ` + mark + ` & exit 0' > /dev/null 2>&1
until test -e /ready; do :; done; exit 3`)
	var exit *ExitError
	if out, err := l.try(spec); !errors.As(err, &exit) || exit.Code != 3 {
		l.t.Fatalf("got %v, want exit code 3; output: %s", err, out)
	}
	if n := processes(l.t, mark); n > 0 {
		l.t.Errorf("%d processes are left", n)
	}
}

func testCancelAnyTime(l *lab) {
	mark := fmt.Sprintf("7%d.%d", os.Getpid(), ids.Add(1))
	for i := range 25 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Millisecond)
		start := time.Now()
		err := l.runner.Run(ctx, l.command("sleep", mark), IO{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			l.t.Errorf("cancelled after %d ms: got %v", i, err)
		}
		if took := time.Since(start); took > time.Minute {
			l.t.Errorf("cancelled after %d ms: took %v", i, took)
		}
		if n := processes(l.t, mark); n != 0 {
			l.t.Fatalf("cancelled after %d ms: %d processes are left", i, n)
		}
	}
}

func testParallel(l *lab) {
	var wg sync.WaitGroup
	for i := range 30 {
		spec := l.spec(fmt.Sprintf("echo %d > /out; cat /out; touch /etc/x%d; exit %d", i, i, i))
		wg.Go(func() {
			out, err := l.try(spec)
			var exit *ExitError
			if out != fmt.Sprint(i) || i > 0 && (!errors.As(err, &exit) || exit.Code != i) {
				l.t.Errorf("run %d: got %q, %v", i, out, err)
			}
			want := []string{"d etc", fmt.Sprintf("- etc/x%d", i), "- out"}
			if got := tree(l.t, spec.Root.Upper); strings.Join(got, ",") != strings.Join(want, ",") {
				l.t.Errorf("run %d: upper directory: got %v, want %v", i, got, want)
			}
		})
	}
	wg.Wait()
}

func testUlimits(l *lab) {
	spec := l.spec("ulimit -n; ulimit -Hn; ulimit -c")
	spec.Ulimits = []Ulimit{{"nofile", 100, 200}, {"core", 0, 0}}
	if got := l.run(spec); got != "100\n200\n0" {
		l.t.Errorf("got %q", got)
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		l.t.Fatal(err)
	}
	spec = l.spec("ulimit -n; ulimit -Hn")
	spec.Ulimits = []Ulimit{{"nofile", int64(own.Max) + 10, int64(own.Max) + 10}}
	if caps, err := ownCapabilities(); err == nil && !strings.Contains(caps.StringCap(2), "sys_resource") {
		want := regexp.MustCompile(fmt.Sprintf("^%d\n%d$", own.Max, own.Max))
		if got := l.run(spec); !want.MatchString(got) {
			l.t.Errorf("more than this process may: got %q, want it lowered to %d", got, own.Max)
		}
	}
	spec = l.spec("true")
	spec.Ulimits = []Ulimit{{"nonsense", 1, 1}}
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "nonsense") {
		l.t.Errorf("unknown limit: got %v", err)
	}
}

// testOwnProgram: what a process finds as /proc/self/exe before it is executed is of no use to it.
func testOwnProgram(l *lab) {
	if !l.linked {
		return // it is the runtime's
	}
	for _, args := range [][]string{{"/proc/self/exe"}, {"/proc/self/exe", "version"}, {"/proc/self/exe", "-test.list", "."}} {
		var exit *ExitError
		if out, err := l.try(l.command(args...)); !errors.As(err, &exit) || out != "" {
			l.t.Errorf("%q: got %q, %v", args, out, err)
		}
	}
}
