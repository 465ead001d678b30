package owners

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

const (
	lesserEnv = "SLIPWAY_OWNERS_TEST_LESSER" // the directory of a test that runs as who has one ID
	targetEnv = "SLIPWAY_OWNERS_TEST_TARGET" // what a supervised process is, as JSON
)

func TestMain(m *testing.M) {
	if text := os.Getenv(targetEnv); text != "" {
		if err := beTarget(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lesser are those who have one ID: root of a user namespace, and an ordinary user without capabilities.
var lesser = map[string]*syscall.SysProcAttr{
	"one ID": {
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		Credential:  &syscall.Credential{},
	},
	"no capabilities": {Credential: &syscall.Credential{Uid: 1000, Gid: 1000}},
}

// as runs the test that calls it again as one of those, where it returns a directory of theirs.
func as(t *testing.T, name string) string {
	t.Helper()
	if dir := os.Getenv(lesserEnv); dir != "" {
		return dir
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: becomes other users")
	}
	dir, err := os.MkdirTemp("", "slipway-owners-")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 1000, 1000)))
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), lesserEnv+"="+dir)
	cmd.Dir, cmd.SysProcAttr = "/", lesser[name]
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setting is what a target is.
type setting struct {
	Root  string // "" for the caller's
	Rules Rules

	since        time.Time // zero: before all
	layers, kept []string
	upper        string
	fixed        map[string]layer.Record
}

// op is what a target is to do: a system call whose arguments are numbers and strings.
type op struct {
	Call  uintptr
	Args  []any // float64 after decoding, or string
	Flips string
}

// beTarget makes what it is asked for by a thread that has the filter.
func beTarget(text string) error {
	var s setting
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	runtime.LockOSThread()
	if s.Root != "" {
		if err := errors.Join(unix.Chroot(s.Root), unix.Chdir("/")); err != nil {
			return err
		}
	}
	listener, err := install(s.Rules)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("n"), unix.UnixRights(listener), nil, 0); err != nil {
		return err
	}
	_ = unix.Close(listener)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var o op
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		fmt.Println(o.make())
	}
	return nil
}

// install gives the thread the filter.
func install(r Rules) (listener int, err error) {
	program := r.Program()
	prog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	if os.Geteuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, err
		}
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(Flags()), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}

// make makes the call and tells what came of it.
func (o op) make() string {
	var args [6]uintptr
	var texts [][]byte
	var st unix.Stat_t
	var x unix.Statx_t
	var text [256]byte
	var told []byte
	answer := func() string { return "" }
	for i, a := range o.Args {
		switch a := a.(type) {
		case float64:
			args[i] = uintptr(int64(a))
		case string:
			switch a {
			case "&stat":
				args[i] = uintptr(unsafe.Pointer(&st))
				answer = func() string { return seen(st.Mode, st.Uid, st.Gid, st.Rdev) }
				continue
			case "&statx":
				args[i] = uintptr(unsafe.Pointer(&x))
				answer = func() string { return seen(uint32(x.Mode), x.Uid, x.Gid, unix.Mkdev(x.Rdev_major, x.Rdev_minor)) }
				continue
			case "&text": // whose first bytes are told, as many as the call says
				args[i] = uintptr(unsafe.Pointer(&text))
				told = text[:]
				continue
			}
			b := append([]byte(a), 0)
			texts = append(texts, b)
			args[i] = uintptr(unsafe.Pointer(&b[0]))
		}
	}
	if o.Flips != "" {
		stop := make(chan struct{})
		defer close(stop)
		go flip(texts[1], []byte(o.Flips), stop)
	}
	r, _, errno := unix.RawSyscall6(o.Call, args[0], args[1], args[2], args[3], args[4], args[5])
	runtime.KeepAlive(texts)
	if errno != 0 {
		return errno.Error()
	}
	if text := answer(); text != "" {
		return text
	}
	if told != nil {
		return fmt.Sprintf("%q", told[:r])
	}
	return fmt.Sprint(int(r))
}

// seen is what a process sees of a file.
func seen(mode, uid, gid uint32, dev uint64) string {
	s := fmt.Sprintf("%o %d:%d", mode, uid, gid)
	if dev != 0 {
		s += fmt.Sprintf(" %d:%d", unix.Major(dev), unix.Minor(dev))
	}
	return s
}

// flip changes a text to another one and back as fast as it can.
func flip(text, other []byte, stop chan struct{}) {
	was := append([]byte(nil), text...)
	for {
		select {
		case <-stop:
			return
		default:
			copy(text, other)
			copy(text, was)
		}
	}
}

// target is a supervised process.
type target struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	s   *Supervisor
}

// start starts a target whose listener nobody has yet.
func start(t *testing.T, s setting) (*target, *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	text, err := json.Marshal(s)
	must(t, err)
	p := &target{t: t, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), targetEnv+"="+string(text))
	p.cmd.ExtraFiles, p.cmd.Stderr = []*os.File{theirs}, os.Stderr
	p.in, err = p.cmd.StdinPipe()
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	p.out = bufio.NewReader(out)
	must(t, p.cmd.Start())
	t.Cleanup(p.kill)
	must(t, theirs.Close())
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	must(t, err)
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("the target gives no listener: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	must(t, errors.Join(err, unix.Close(pair[0])))
	return p, os.NewFile(uintptr(fds[0]), "listener")
}

// supervised starts a target with a supervisor.
func startSupervised(t *testing.T, s setting) *target {
	t.Helper()
	p, listener := start(t, s)
	var err error
	opt := Options{Rules: s.Rules, Since: s.since, Layers: s.layers, Kept: s.kept}
	if opt.Since.IsZero() {
		opt.Since = time.Unix(0, 0) // all is the processes' own
	}
	opt.Root, err = os.OpenFile(fmt.Sprintf("/proc/%d/root", p.cmd.Process.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer opt.Root.Close()
	if s.upper != "" {
		opt.Upper, err = os.OpenFile(s.upper, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		t.Cleanup(func() { opt.Upper.Close() })
	}
	opt.Fixed = map[Inode]layer.Record{}
	for path, r := range s.fixed {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		opt.Fixed[Inode{st.Dev, st.Ino}] = r
	}
	p.s, err = Serve(listener, opt)
	must(t, err)
	t.Cleanup(func() {
		if p.s != nil {
			must(t, p.s.Close())
		}
	})
	return p
}

func (p *target) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// ask has the target make a call, whose answer is not waited for.
func (p *target) ask(call uintptr, args ...any) {
	p.t.Helper()
	p.send(op{Call: call, Args: args})
}

func (p *target) send(o op) {
	p.t.Helper()
	text, err := json.Marshal(o)
	must(p.t, err)
	_, err = p.in.Write(append(text, '\n'))
	must(p.t, err)
}

// do has the target make a call: what it gave, or the error's text.
func (p *target) do(call uintptr, args ...any) string {
	p.t.Helper()
	p.ask(call, args...)
	return p.answer()
}

func (p *target) answer() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the target: %v", err)
	}
	return strings.TrimSpace(line)
}

// want checks what a call gives.
func (p *target) want(want string, call uintptr, args ...any) {
	p.t.Helper()
	if got := p.do(call, args...); got != want {
		p.t.Errorf("call %d %v gives %s, want %s", call, args, got, want)
	}
}

// is describes an object of a layer.
func is(t *testing.T, dir, name string) string {
	t.Helper()
	e, err := layer.OpenDir(dir, layer.DirOptions{Overlay: true, Flavor: layer.User, Records: layer.User.Records(dir)}).Lstat(name)
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%o %d:%d", e.Mode, e.UID, e.GID)
	if e.Major+e.Minor > 0 {
		s += fmt.Sprintf(" %d:%d", e.Major, e.Minor)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		s += fmt.Sprintf(" %s=%x", k, e.Xattrs[k])
	}
	return s
}

// fill makes files: names that end in / are directories, "a>b" is a link.
func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		from, to, link := strings.Cut(n, ">")
		path := filepath.Join(dir, from)
		switch {
		case link:
			must(t, os.Symlink(to, path))
		case strings.HasSuffix(n, "/"):
			must(t, os.MkdirAll(path, 0o755))
		default:
			must(t, errors.Join(os.WriteFile(path, []byte("x"), 0o644), os.Chmod(path, 0o644)))
		}
	}
}
