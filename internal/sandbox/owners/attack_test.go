package owners

import (
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
	s := &Supervisor{rules: r, listener: listener, links: map[Inode]layer.LinkRecord{}}
	must(t, s.begin())
	return s
}

func (s *Supervisor) receive(t *testing.T) (n notification) {
	t.Helper()
	must(t, s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)))
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
		if r := s.answer(&n); r.error != -int32(unix.ESRCH) || r.flags != 0 {
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
