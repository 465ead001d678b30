package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/container/logfile"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// TestMain makes this program a stranger that connects to a socket, if it is told to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SLIPWAY_TEST_STRANGER"); dir != "" {
		_, err := Inspect(dir, "x")
		fmt.Print(err)
		return
	}
	os.Exit(m.Run())
}

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// newHost makes a host whose processes print what they are told by their arguments.
func newHost(t *testing.T, change func(*Options)) *Host {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // no address has so much room
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	opt := Options{Dir: dir, ID: id, Tell: func(string, map[string]string) {}, Exec: func(_ context.Context, p *sandbox.Process, streams sandbox.IO) error {
		switch p.Args[0] {
		case "nosuch":
			return fmt.Errorf("starting: %w", sandbox.ErrCommandNotFound)
		case "cat":
			streams.Started()
			_, err := io.Copy(streams.Stdout, streams.Stdin)
			return err
		case "fail":
			streams.Started()
			fmt.Fprint(streams.Stderr, "failing")
			return &sandbox.ExitError{Code: 9}
		}
		streams.Started()
		return nil
	}}
	if change != nil {
		change(&opt)
	}
	h, err := Listen(opt)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// output is what a session has.
func sessionOutput(t *testing.T, s *Session) (string, string, Exit) {
	t.Helper()
	var out, errs bytes.Buffer
	exit, err := s.Output(&out, &errs)
	if err != nil {
		t.Error(err)
	}
	return out.String(), errs.String(), exit
}

// TestAttach: each client gets what it wants, to the end.
func TestAttach(t *testing.T) {
	h := newHost(t, func(o *Options) { o.OpenStdin, o.StdinOnce = true, true })
	streams := h.Streams(sandbox.IO{})
	all, err := Attach(h.opt.Dir, Streams{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	one, err := Attach(h.opt.Dir, Streams{Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	go all.Input(strings.NewReader("typed"))
	typed, err := io.ReadAll(streams.Stdin) // it ends with that of the client
	if err != nil || string(typed) != "typed" {
		t.Errorf("the input is %q, %v", typed, err)
	}
	go func() {
		fmt.Fprint(streams.Stdout, "out")
		fmt.Fprint(streams.Stderr, "err")
		h.End(Exit{Code: 3})
	}()
	if out, errs, exit := sessionOutput(t, all); out != "out" || errs != "err" || exit.Code != 3 {
		t.Errorf("one got %q, %q and %+v", out, errs, exit)
	}
	if out, errs, exit := sessionOutput(t, one); out != "" || errs != "err" || exit.Code != 3 {
		t.Errorf("the other one got %q, %q and %+v", out, errs, exit)
	}
	if _, err := Attach(h.opt.Dir, Streams{}); !errors.Is(err, ErrNone) {
		t.Errorf("after the end: %v", err)
	}
}

// TestExec: processes are started once, with their streams and exit codes.
func TestExec(t *testing.T) {
	h := newHost(t, nil)
	defer h.End(Exit{})
	dir := h.opt.Dir
	run := func(want Streams, args ...string) (*Session, string, error) {
		t.Helper()
		e, err := Create(dir, ExecOptions{Process: sandbox.Process{Args: args}, Want: want})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(e.ID, id[:32]) || len(e.ID) != 64 {
			t.Errorf("its ID is %s", e.ID)
		}
		s, err := RunExec(dir, e.ID, false, nil)
		return s, e.ID, err
	}
	s, eid, err := run(Streams{Stdin: true, Stdout: true}, "cat")
	if err != nil {
		t.Fatal(err)
	}
	go s.Input(strings.NewReader(strings.Repeat("x", 3<<20)))
	if out, _, exit := sessionOutput(t, s); len(out) != 3<<20 || exit.Code != 0 {
		t.Errorf("cat gave %d bytes, %+v", len(out), exit)
	}
	if _, err := RunExec(dir, eid, false, nil); err == nil || !strings.Contains(err.Error(), "already run") {
		t.Errorf("a second time: %v", err)
	}
	s, eid, err = run(Streams{Stdout: true, Stderr: true}, "fail")
	if err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := sessionOutput(t, s); errs != "failing" || exit.Code != 9 {
		t.Errorf("fail gave %q, %+v", errs, exit)
	}
	if e, err := Inspect(dir, eid); err != nil || e.Running || e.Exit == nil || e.Exit.Code != 9 {
		t.Errorf("it is %+v, %v", e, err)
	}
	if _, eid, err = run(Streams{Stdout: true}, "nosuch"); !errors.Is(err, sandbox.ErrCommandNotFound) {
		t.Errorf("nosuch: %v", err)
	}
	if e, err := Inspect(dir, eid); err != nil || e.Exit == nil || e.Exit.Code != 127 {
		t.Errorf("it is %+v, %v", e, err)
	}
	if _, err := Inspect(dir, "x"); !errors.Is(err, ErrNoExec) {
		t.Errorf("one that is not there: %v", err)
	}
	for range maxExecs + 10 {
		if _, err = Create(dir, ExecOptions{Process: sandbox.Process{Args: []string{"true"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if h.mu.Lock(); len(h.execs) != maxExecs || len(h.order) != maxExecs { // those that nobody began keep nobody else out
		t.Errorf("%d are known", len(h.execs))
	}
	h.mu.Unlock()
}

// TestSlowClient: the process waits for a client that does not read, memory does not grow, and the client misses nothing. The end does not wait for ever.
func TestSlowClient(t *testing.T) {
	h := newHost(t, nil)
	streams := h.Streams(sandbox.IO{})
	s, err := Attach(h.opt.Dir, Streams{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	const size = 16 << 20
	written := make(chan struct{})
	go func() {
		for range size >> 16 {
			_, _ = streams.Stdout.Write(make([]byte, 1<<16))
		}
		close(written)
	}()
	h.mu.Lock()
	a := h.attached[0]
	h.mu.Unlock()
	a.mu.Lock()
	for a.bytes <= maxBehind { // it fills up, and no further
		a.moved.Wait()
	}
	if a.bytes > maxBehind+1<<16 {
		t.Errorf("%d bytes wait", a.bytes)
	}
	a.mu.Unlock()
	select {
	case <-written:
		t.Error("the process did not wait")
	default:
	}
	go func() { <-written; h.End(Exit{}) }()
	if out, _, _ := sessionOutput(t, s); len(out) != size {
		t.Errorf("it got %d bytes", len(out))
	}

	h = newHost(t, nil)
	streams = h.Streams(sandbox.IO{})
	if s, err = Attach(h.opt.Dir, Streams{Stdout: true}); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		for range size >> 16 {
			_, _ = streams.Stdout.Write(make([]byte, 1<<16))
		}
		close(gone)
	}()
	s.Close() // who is gone is not waited for
	<-gone
	h.End(Exit{})
}

// TestWaiting: a host whose container was not started ends with its last client, and starts once.
func TestWaiting(t *testing.T) {
	var mu sync.Mutex
	starts := 0
	h := newHost(t, func(o *Options) {
		o.Start = func() error {
			mu.Lock()
			defer mu.Unlock()
			starts++
			return nil
		}
	})
	s, err := Attach(h.opt.Dir, Streams{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if h.Leave() {
		t.Error("it left its client")
	}
	if err := Start(h.opt.Dir); err != nil || starts != 1 {
		t.Errorf("%d starts, %v", starts, err)
	}
	s.Close()
	for <-h.Left(); !h.Leave(); <-h.Left() {
	}
	if err := Start(h.opt.Dir); !errors.Is(err, ErrNone) {
		t.Errorf("after its end: %v", err)
	}
	h = newHost(t, nil)
	if err := Start(h.opt.Dir); !errors.Is(err, ErrRuns) {
		t.Errorf("of a container that runs: %v", err)
	}
	h.End(Exit{})
}

// TestHostileClients: whatever is sent is an error to who has sent it.
func TestHostileClients(t *testing.T) {
	h := newHost(t, nil)
	defer h.End(Exit{})
	for name, data := range map[string]string{
		"nothing":       "",
		"half a head":   "q\x00",
		"a huge length": "q\xff\xff\xff\xff",
		"no request":    "i\x00\x00\x00\x01x",
		"no JSON":       "q\x00\x00\x00\x01x",
		"null":          frame('q', "null"),
		"no operation":  frame('q', `{"op":"?"}`),
		"no size":       frame('q', `{"op":"resize"}`),
		"no process":    frame('q', `{"op":"create"}`),
		"no arguments":  frame('q', `{"op":"create","create":{}}`),
		"no ID":         frame('q', `{"op":"exec"}`),
		"frames":        frame('q', `{"op":"attach"}`) + frame('x', "{}") + frame('z', "") + "i\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := dial(h.opt.Dir)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, data); err != nil {
				t.Fatal(err)
			}
			if name != "a huge length" { // of which nobody waits for the rest
				_ = c.CloseWrite()
			}
			_ = c.SetReadDeadline(time.Now().Add(patience / 2))
			if _, err := io.ReadAll(c); err != nil {
				t.Error(err)
			}
			if _, err := Inspect(h.opt.Dir, "x"); !errors.Is(err, ErrNoExec) {
				t.Errorf("another client after that: %v", err)
			}
		})
	}
}

func frame(kind byte, text string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(text)))) + text
}

// TestStrangers: who is another user is not answered, even where the socket's mode and place let him connect.
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to be another user needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "slipway-host-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h := newHost(t, func(o *Options) { o.Dir = dir })
	defer h.End(Exit{})
	program := filepath.Join(dir, "stranger")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.WriteFile(program, data, 0o755), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	ask := func(uid uint32) string {
		cmd := osexec.Command(program)
		cmd.Env = []string{"SLIPWAY_TEST_STRANGER=" + dir}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := ask(0); !strings.Contains(got, "No such exec instance") {
		t.Errorf("root is told %q", got)
	}
	if got := ask(12345); !strings.Contains(got, "permission denied") {
		t.Errorf("another user is told %q", got)
	}
	if err := os.Chmod(filepath.Join(dir, socketName), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := ask(12345); !strings.Contains(got, ErrNone.Error()) {
		t.Errorf("another user who may connect is told %q", got)
	}
}

// TestSizes: of sizes that nobody has read yet the newest counts, also where a process is not started, and they make nobody wait.
func TestSizes(t *testing.T) {
	sizes := make(chan sandbox.WinSize, 1)
	h := newHost(t, func(o *Options) {
		o.Exec = func(_ context.Context, _ *sandbox.Process, streams sandbox.IO) error {
			streams.Started()
			sizes <- <-streams.Resize
			return nil
		}
	})
	defer h.End(Exit{})
	e, err := Create(h.opt.Dir, ExecOptions{Process: sandbox.Process{Args: []string{"size"}, Terminal: true}})
	if err != nil {
		t.Fatal(err)
	}
	for rows := range uint16(3) {
		if err := Resize(h.opt.Dir, e.ID, sandbox.WinSize{Rows: rows, Cols: 1}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := RunExec(h.opt.Dir, e.ID, false, &sandbox.WinSize{Rows: 7, Cols: 1})
	if err != nil {
		t.Fatal(err)
	}
	sessionOutput(t, s)
	if got := <-sizes; got.Rows != 7 {
		t.Errorf("the size is %+v", got)
	}
}

// TestLogged: what is printed is in the log, also with nobody attached.
func TestLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := logfile.Open(path, logfile.DefaultSize)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, func(o *Options) { o.Log = log })
	var base bytes.Buffer
	streams := h.Streams(sandbox.IO{Stdout: &base})
	fmt.Fprint(streams.Stdout, "no end")
	fmt.Fprintln(streams.Stderr, "line")
	h.End(Exit{})
	var got []string
	err = logfile.Read(t.Context(), path, logfile.Options{Stdout: true, Stderr: true, Tail: -1}, func(e *logfile.Entry) error {
		got = append(got, e.Stream+" "+e.Log)
		return nil
	})
	if err != nil || strings.Join(got, "|") != "stderr line\n|stdout no end" || base.String() != "no end" {
		t.Errorf("the log has %q, %v; %q was printed", got, err, base.String())
	}
}

// TestLateClient: the end of the container is not held up by a client for ever.
func TestLateClient(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as a client may")
	}
	h := newHost(t, nil)
	streams := h.Streams(sandbox.IO{})
	s, err := Attach(h.opt.Dir, Streams{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	streams.Used(sandbox.Usage{})
	begin := time.Now()
	for range 512 {
		_, _ = streams.Stdout.Write(make([]byte, 1<<16))
	}
	if d := time.Since(begin); d > lastWords/2 {
		t.Errorf("the container counted as running for %v", d)
	}
	h.End(Exit{})
	if d := time.Since(begin); d > 3*lastWords {
		t.Errorf("it took %v", d)
	}
}

// TestInputNobodyReads: a client that typed before the container runs and is gone is known to be gone, and what it typed is not lost.
func TestInputNobodyReads(t *testing.T) {
	for _, size := range []int{5, 3 * maxInput} {
		h := newHost(t, func(o *Options) { o.OpenStdin = true })
		s, err := Attach(h.opt.Dir, Streams{Stdin: true})
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{})
		go func() {
			s.Input(strings.NewReader(strings.Repeat("x", size)))
			close(sent)
		}()
		if size < maxInput {
			<-sent
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-h.Left():
		case <-time.After(20 * time.Second):
			t.Fatalf("after %d bytes the client counts as there", size)
		}
		if size < maxInput {
			got := make([]byte, size)
			if _, err := io.ReadFull(h.Streams(sandbox.IO{}).Stdin, got); err != nil {
				t.Error(err)
			}
		}
		h.End(Exit{})
	}
}

// TestExecBytes: what clients want to have run takes a bounded memory, and the newest is known.
func TestExecBytes(t *testing.T) {
	h := newHost(t, func(*Options) {})
	defer h.End(Exit{})
	long := strings.Repeat("x", 1<<20)
	for range 2 * maxExecBytes / len(long) {
		e, err := h.create(&ExecOptions{Process: sandbox.Process{Args: []string{long}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.inspect(e.ID); err != nil {
			t.Error(err)
		}
	}
	if n := len(h.order); n != maxExecBytes/len(long) || n != len(h.execs) {
		t.Errorf("%d and %d are known", n, len(h.execs))
	}
	for _, e := range h.execs {
		e.begun = true
	}
	if _, err := h.create(&ExecOptions{Process: sandbox.Process{Args: []string{long}}}); err == nil {
		t.Error("those that run were forgotten, or their bytes")
	}
}
