package owners

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// hasRecord reports whether a file has a record.
func hasRecord(path string) bool {
	_, err := unix.Lgetxattr(path, layer.OwnerRecord, nil)
	return err == nil
}

// No path leads the supervisor out of the caller's root, nor to what the caller could not reach: not by links, not by "..", not by /proc, where the
// supervisor has more rights than the caller.
func TestPathsStayInTheRoot(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	// As slipway is where containers see the /proc that it sees.
	must(t, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	me := fmt.Sprintf("/proc/%d", os.Getpid())
	opened, err := os.Open(dir)
	must(t, err)
	defer opened.Close()
	fill(t, dir, "outside", "root/", "root/outside", "root/d/", "root/proc/", "root/in", "root/up>../../outside", "root/abs>/outside", "root/dabs>"+dir, "root/px>"+me+"/root"+dir)
	must(t, unix.Mount("/proc", dir+"/root/proc", "", unix.MS_BIND|unix.MS_REC, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir+"/root/proc", unix.MNT_DETACH)) })
	p := startSupervised(t, setting{Root: dir + "/root", Rules: Rules{Root: true}})
	p.want("0", unix.SYS_CHOWN, "/in", 1, 1) // it works at all
	for _, path := range []string{
		me + "/root" + dir + "/outside", "/px/outside", me + "/cwd/outside", fmt.Sprintf("%s/fd/%d/outside", me, opened.Fd()), "/proc/self/root" + dir + "/outside",
		"/proc/thread-self/root" + dir + "/outside", fmt.Sprintf("/proc/self/fd/%d/outside", opened.Fd()), "/dabs/outside", dir + "/outside", "/d/../../.." + dir + "/outside",
	} {
		if got := p.do(unix.SYS_CHOWN, path, 66, 66); got == "0" {
			t.Errorf("%s: done", path)
		}
		if got := p.do(unix.SYS_MKNODAT, cwd, path+".made", unix.S_IFCHR|0o600, 0x103); got == "0" {
			t.Errorf("%s.made: done", path)
		}
		if got := p.do(unix.SYS_SETXATTR, path, "trusted.x", "y", 1, 0); got == "0" {
			t.Errorf("%s: an attribute was set", path)
		}
	}
	p.want("0", unix.SYS_CHOWN, "/up", 67, 67) // which is /outside in that root
	p.want("0", unix.SYS_CHOWN, "/abs", -1, 68)
	p.want("0", unix.SYS_CHOWN, "/../../outside", 69, -1)
	if got, want := is(t, dir+"/root", "outside"), "100644 69:68"; got != want {
		t.Errorf("the root's own file is %s, want %s", got, want)
	}
	if hasRecord(dir+"/outside") || hasRecord(dir) {
		t.Error("what is outside of the root has a record")
	}
	if _, err := os.Lstat(dir + "/outside.made"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device was made outside of the root: %v", err)
	}
}

// What is mounted from elsewhere gets no records: it may be a directory of the user's.
func TestOtherMountsAreNotRecorded(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/mnt/", "lower/f", "theirs/", "theirs/f")
	root, _ := mountLayer(t, dir)
	must(t, unix.Mount(dir+"/theirs", root+"/mnt", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root+"/mnt", unix.MNT_DETACH)) })
	p := startSupervised(t, setting{Root: root, Rules: Rules{Root: true}})
	p.want("0", unix.SYS_CHOWN, "/f", 1, 1)
	p.want("0", unix.SYS_CHOWN, "/mnt/f", 1, 1)
	p.want("operation not permitted", unix.SYS_MKNODAT, cwd, "/mnt/null", unix.S_IFCHR|0o600, 0x103)
	if hasRecord(dir + "/theirs/f") {
		t.Error("a file of a mount has a record")
	}
	if !hasRecord(root + "/f") {
		t.Error("a file of the root has none")
	}
}

// hand is a supervisor whose notifications the test takes itself.
func hand(t *testing.T, listener *os.File, r Rules) *Supervisor {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread's root changes
	s := newSupervisor(listener, Options{Rules: r})
	must(t, s.begin(nil))
	return s
}

func (s *Supervisor) receive(t *testing.T) (n notification) {
	t.Helper()
	err := error(unix.ENOENT) // a signal has come between
	for err == unix.ENOENT {
		n = notification{}
		err = s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n))
	}
	must(t, err)
	return n
}

// A caller that dies while it is looked at, and whose number another process has then, changes nothing of that one's.
func TestNumberThatIsUsedAgain(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "a/", "a/f", "b/", "b/f")
	rules := Rules{Root: true}
	dead, first := start(t, setting{Root: dir + "/a", Rules: rules})
	other, second := start(t, setting{Root: dir + "/b", Rules: rules})
	defer second.Close()
	s := hand(t, first, rules)
	for _, call := range [][]any{{uintptr(unix.SYS_CHOWN), "/f", 1, 1}, {uintptr(unix.SYS_SETXATTR), "/f", "trusted.x", "y", 1, 0}} {
		other.ask(call[0].(uintptr), call[1:]...)
		theirs := (&Supervisor{listener: second}).receive(t)
		n := theirs
		if call[0] == uintptr(unix.SYS_CHOWN) {
			dead.ask(unix.SYS_CHOWN, "/f", 1, 1)
			n.id = s.receive(t).id
			dead.kill()
		} else {
			n.id = 1 << 60
		}
		if r, _ := s.answer(&n); r.error != -int32(unix.ESRCH) || r.flags != 0 {
			t.Errorf("call %v: the answer is %+v, want ESRCH", call, r)
		}
		if got, want := is(t, dir+"/b", "f"), "100644 0:0"; got != want {
			t.Errorf("the other process's file is %s, want %s", got, want)
		}
		r := response{id: theirs.id, error: -int32(unix.EINTR)}
		must(t, (&Supervisor{listener: second}).ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)))
		if got := other.answer(); got != "interrupted system call" {
			t.Errorf("the other process got %s", got)
		}
	}
}

// Callers that are killed at any time, and one that waits when answering ends, keep nobody.
func TestCallersThatDie(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "f")
	for range 20 {
		p := startSupervised(t, setting{Root: dir, Rules: Rules{Root: true}})
		for i := range 50 {
			p.ask(unix.SYS_CHOWN, "/f", i, i)
		}
		p.kill()
		must(t, p.s.Close())
		p.s = nil
	}
	p, listener := start(t, setting{Root: dir, Rules: Rules{Root: true}})
	p.ask(unix.SYS_CHOWN, "/f", 1, 1)
	n := hand(t, listener, Rules{}).receive(t) // nobody answers
	if n.pid == 0 {
		t.Error("the caller has no number")
	}
	must(t, listener.Close())
	if got := p.answer(); got != "function not implemented" {
		t.Errorf("when nobody answers any more the caller gets %s", got)
	}
	// Of whoever has the filter, nobody is left.
	s := startSupervised(t, setting{Root: dir, Rules: Rules{Root: true}})
	s.kill()
	<-s.s.ended
}

// Arguments that are no paths, names or values are errors, and none makes the supervisor take more memory than the kernel would.
func TestHostileArguments(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "f")
	p := startSupervised(t, setting{Root: dir, Rules: Rules{Root: true}})
	long := strings.Repeat("x", 5000)
	p.want("bad address", unix.SYS_LCHOWN, 1, 1, 1)
	p.want("file name too long", unix.SYS_CHOWN, long, 1, 1)
	p.want("numerical result out of range", unix.SYS_SETXATTR, "/f", "trusted."+long, "y", 1, 0)
	p.want("argument list too long", unix.SYS_SETXATTR, "/f", "trusted.x", "y", 1<<40, 0)
	p.want("bad address", unix.SYS_SETXATTR, "/f", "trusted.x", 8, 10, 0)
	p.want("bad file descriptor", unix.SYS_FCHOWN, -5, 1, 1)
	p.want("bad file descriptor", unix.SYS_FCHOWNAT, -7, "f", 1, 1, 0)
	p.want("operation not permitted", unix.SYS_MKNODAT, cwd, "/white", unix.S_IFCHR|0o600, 0)
	p.want("operation not permitted", unix.SYS_SETXATTR, "/f", "trusted.overlay.opaque", "y", 1, 0)
	if got, want := is(t, dir, "f"), "100644 0:0"; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
	if _, err := os.Lstat(dir + "/white"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a whiteout was made: %v", err)
	}
}

// An answer is not written to the memory of a process that has the caller's number by then.
func TestAnswerToAnother(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "f")
	must(t, unix.Setxattr(dir+"/f", layer.OwnerRecord, []byte("5:5"), 0))
	rules := Rules{Root: true}
	p, listener := start(t, setting{Root: dir, Rules: rules})
	s := hand(t, listener, rules)
	p.ask(fstatat, cwd, "/f", "&stat", 0)
	theirs := s.receive(t)
	n := theirs
	n.id = 1 << 60 // the caller is gone, and this one has its number
	c := &call{s: s, n: &n, layout: supervised()[fstatat], object: -1, root: -1, dirfd: -1}
	if err := c.write(n.args[c.buffer], make([]byte, 8)); err != unix.ESRCH {
		t.Errorf("writing gives %v, want ESRCH", err)
	}
	r, _ := s.answer(&theirs)
	must(t, s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)))
	if got := p.answer(); got != "100644 5:5" {
		t.Errorf("the caller sees %s", got)
	}
}

// Who is not root sets no record by calls of another kind: those of x32 and those of rings.
func TestOtherWaysToAttributes(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "root/", "root/x")
	p := startSupervised(t, setting{Root: dir + "/root", Rules: Rules{UID: 1000, GID: 100}})
	p.want("function not implemented", unix.SYS_IO_URING_SETUP, 8, 0)
	if arch == unix.AUDIT_ARCH_X86_64 {
		p.want("function not implemented", 0x40000000|unix.SYS_SETXATTR, "/x", layer.OwnerRecord, "0:0", 3, 0)
	}
	if hasRecord(dir + "/root/x") {
		t.Error("a record was set")
	}
	const i386, arm = 0x40000003, 0x40000028
	for _, other := range []uint32{i386, arm} {
		for _, number := range []uint32{226, 227, 228, 235, 425, 463} {
			if got := run(t, Rules{UID: 1000}.Program(), other, number, nil); got != denied {
				t.Errorf("call %d of architecture %x gives %x, want %x", number, other, got, denied)
			}
		}
		if got := run(t, Rules{UID: 1000}.Program(), other, 5, nil); got != allow {
			t.Errorf("open of architecture %x gives %x", other, got)
		}
	}
}

// run runs a filter as the kernel does.
func run(t *testing.T, program []byte, arch, number uint32, args []uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data, number)
	binary.NativeEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for at := 0; at < len(program)/8; at++ {
		code, k := binary.NativeEndian.Uint16(program[8*at:]), binary.NativeEndian.Uint32(program[8*at+4:])
		jt, jf := int(program[8*at+2]), int(program[8*at+3])
		jump := func(yes bool) {
			if yes {
				at += jt
			} else {
				at += jf
			}
		}
		switch code {
		case load:
			acc = binary.NativeEndian.Uint32(data[k:])
		case mask:
			acc &= k
		case equal:
			jump(acc == k)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&k != 0)
		case ret:
			return k
		default:
			t.Fatalf("instruction %x", code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

// Processes that became somebody else and ended take nothing of slipway's memory.
func TestProcessesAreForgotten(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	p := startSupervised(t, setting{Rules: Rules{Root: true}})
	p.want("0", unix.SYS_SETRESUID, 33, 33, 0)
	must(t, p.s.Close())
	s := p.s
	p.s = nil
	for i := range 100_000 {
		s.know(fmt.Sprint(10_000_000+i), identity{started: "1"})
	}
	if n := len(s.identities); n > 1000 {
		t.Errorf("%d processes are known that are none", n)
	}
}

// Records of links are bounded, and replacing one takes no more.
func TestLinksAreBounded(t *testing.T) {
	s := newSupervisor(nil, Options{})
	l := layer.LinkRecord{Path: strings.Repeat("p", 4000), Target: strings.Repeat("t", 4000)}
	for range 100_000 {
		must(t, s.keep(Inode{1, 1}, l))
	}
	var err error
	n := uint64(0)
	for ; err == nil && n < 100_000; n++ {
		err = s.keep(Inode{1, n}, l)
	}
	if err != unix.ENOSPC || n < 1000 {
		t.Errorf("after %d links: %v, want ENOSPC", n, err)
	}
}

// Pipes that nobody writes to, devices and sockets keep nobody, whatever is asked or said of them.
func TestPipesAndDevices(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "l>pipe", "d/")
	must(t, unix.Mkfifo(dir+"/pipe", 0o600))
	must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0))
	p := startSupervised(t, setting{Root: dir, Rules: Rules{Root: true}})
	for _, name := range []string{"/pipe", "/l", "/socket"} {
		p.want("0", unix.SYS_CHOWN, name, 5, 6)
		p.want("0", unix.SYS_FCHMODAT, cwd, name, 0o600)
	}
	p.sees("10600 5:6", "/pipe")
	p.want("0", unix.SYS_SETRESUID, 33, 33, 33)
	p.want("permission denied", unix.SYS_MKNODAT, cwd, "/d/pipe", unix.S_IFIFO|0o600, 0)
	p.want("file exists", unix.SYS_MKNODAT, cwd, "/pipe", unix.S_IFIFO|0o600, 0)
	p.want("no such device or address", unix.SYS_OPENAT, cwd, "/pipe", unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK, 0o600) // the kernel's own
	p.want("not a directory", unix.SYS_MKDIRAT, cwd, "/pipe/x", 0o700)
}

// Records of layers are those beside the layers, and not what is at the same paths in a step's root.
func TestRecordsAreOfTheLayers(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/l>x", "root/", "root/l>x")
	must(t, layer.Complete(dir+"/lower", layer.Completion{Links: []layer.LinkRecord{{Record: layer.Record{Owner: layer.Owner{UID: 7, GID: 8}}, Path: "l", Target: "x"}}}))
	var st unix.Stat_t
	must(t, unix.Lstat(dir+"/lower/l", &st))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/root/l", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
	forged := dir + "/root" + dir
	must(t, os.MkdirAll(forged, 0o755))
	text, err := os.ReadFile(layer.User.Records(dir + "/lower"))
	must(t, err)
	must(t, os.WriteFile(layer.User.Records(forged+"/lower"), []byte(strings.ReplaceAll(string(text), "7:8", "66:66")), 0o644))
	p := startSupervised(t, setting{Root: dir + "/root", Rules: Rules{Root: true}, layers: []string{dir + "/lower"}})
	p.sees("120777 7:8", "/l")
}

// Where a thread cannot have a working directory of its own, that of the process stays what it is.
func TestWorkingDirectoryStays(t *testing.T) {
	dir := as(t, "no capabilities")
	if dir == "" {
		return
	}
	fill(t, dir, "d/", "d/f")
	must(t, os.Chdir(dir))
	forbidUnshare(t)
	p := startSupervised(t, setting{Rules: rulesHere()})
	p.want("0", unix.SYS_CHDIR, dir+"/d")
	p.want("0", unix.SYS_CHOWN, "f", 5, 6)
	p.want("100644 5:6", fstatat, cwd, "f", "&stat", 0)
	p.want("100644 5:6", fstatat, cwd, dir+"/d/f", "&stat", 0)
	if got, err := os.Getwd(); err != nil || got != dir {
		t.Errorf("the working directory is %s (%v), want %s", got, err, dir)
	}
	if _, err := os.Stat("d/f"); err != nil {
		t.Error(err)
	}
}

// forbidUnshare has unshare(2) fail for all threads, as with Docker's seccomp profile.
func forbidUnshare(t *testing.T) {
	t.Helper()
	program := []unix.SockFilter{
		{Code: load, K: 0}, {Code: equal, K: unix.SYS_UNSHARE, Jf: 1}, {Code: ret, K: denied}, {Code: ret, K: allow},
	}
	must(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatal(errno)
	}
}
