package owners

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Who is no root may do what a user may: nothing of it makes files of others, or gives files rights that they had not.
func TestUser(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "root/", "root/mine", "root/d/", "root/theirs", "root/x")
	must(t, unix.Setxattr(dir+"/root/theirs", layer.OwnerRecord, []byte("0:0"), 0))
	for _, attr := range []string{"security.capability", "trusted.x"} {
		must(t, unix.Setxattr(dir+"/root/theirs", layer.HeldRecord+attr, []byte("y"), 0))
	}
	p := startSupervised(t, setting{Root: dir + "/root", Rules: Rules{UID: 1000, GID: 100, Groups: []uint32{50}}})
	p.want(`"y"`, unix.SYS_GETXATTR, "/theirs", "security.capability", "&text", 10)
	p.want("no data available", unix.SYS_GETXATTR, "/theirs", "trusted.x", "&text", 10)
	if list := p.do(unix.SYS_LISTXATTR, "/theirs", "&text", 256); !strings.Contains(list, `\x00security.capability\x00`) || strings.Contains(list, `\x00trusted.x\x00`) {
		t.Errorf("a user sees the attributes %s", list)
	}
	const no = "operation not permitted"
	p.want("0", unix.SYS_CHOWN, "/mine", 1000, 100)
	p.want("0", unix.SYS_CHOWN, "/mine", -1, 50)
	p.want("0", unix.SYS_CHOWN, "/d", 1000, 100)
	p.want("0", unix.SYS_CHOWN, "/theirs", -1, -1)
	p.want(no, unix.SYS_CHOWN, "/mine", 0, -1)
	p.want(no, unix.SYS_CHOWN, "/mine", -1, 0)
	p.want(no, unix.SYS_CHOWN, "/theirs", 1000, -1)
	p.want(no, unix.SYS_CHOWN, "/theirs", -1, 100)
	for _, attr := range []string{layer.OwnerRecord, layer.HeldRecord + "security.capability", "security.capability", "trusted.x", "user.slipway."} {
		p.want(no, unix.SYS_SETXATTR, "/mine", attr, "0:0:104755", 10, 0)
		p.want(no, unix.SYS_LSETXATTR, "/mine", attr, "0:0:104755", 10, 0)
	}
	p.want(no, unix.SYS_REMOVEXATTR, "/theirs", layer.OwnerRecord)
	p.want(no, unix.SYS_SETXATTR, "/theirs", "user.x", "y", 1, 0)
	p.want("0", unix.SYS_SETXATTR, "/x", "user.x", "y", 1, 0)
	p.want("0", unix.SYS_REMOVEXATTR, "/x", "user.x")
	p.want("function not implemented", unix.SYS_SETXATTRAT, cwd, "/x", 0, layer.OwnerRecord, 0, 0)
	for _, call := range []uintptr{unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETFSUID} {
		p.want(no, call, 0)
	}
	p.want(no, unix.SYS_SETRESUID, 1000, 0, -1)
	for name, want := range map[string]string{"mine": "100644 1000:50", "d": "40755 1000:100", "theirs": "100644 0:0 security.capability=79 trusted.x=79"} {
		if got := is(t, dir+"/root", name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// A name that changes while the call is looked at does not become another one for the kernel.
func TestNameThatChanges(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "root/", "root/x")
	p := startSupervised(t, setting{Root: dir + "/root", Rules: Rules{UID: 1000, GID: 100}})
	allowed := "user.allowed" + strings.Repeat("x", len(layer.OwnerRecord)-len("user.allowed"))
	done := 0
	for range 3000 {
		p.send(op{Call: unix.SYS_SETXATTR, Args: []any{"/x", allowed, "0:0:104755", 10, 0}, Flips: layer.OwnerRecord})
		if p.answer() == "0" {
			done++
		}
	}
	if got := is(t, dir+"/root", "x"); !strings.HasPrefix(got, "100644 0:0") {
		t.Errorf("it is %s", got)
	}
	if done == 0 {
		t.Error("nothing was allowed")
	}
}

// A process that gives up root's rights is told that it has, and so are those that it starts; others are not.
func TestWhoAmI(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			p := startSupervised(t, setting{Rules: rulesHere()})
			other := startSupervised(t, setting{Rules: rulesHere()})
			is := func(p *target, uid, euid, gid, egid string) {
				t.Helper()
				p.want(uid, unix.SYS_GETUID)
				p.want(euid, unix.SYS_GETEUID)
				p.want(gid, unix.SYS_GETGID)
				p.want(egid, unix.SYS_GETEGID)
			}
			is(p, "0", "0", "0", "0")
			p.want("0", unix.SYS_SETGROUPS, 0, 0)
			p.want("0", unix.SYS_SETRESGID, 33, 34, 35)
			p.want("0", unix.SYS_SETRESUID, -1, 42, -1)
			is(p, "0", "42", "33", "34")
			p.want("operation not permitted", unix.SYS_SETUID, 7)
			p.want("0", unix.SYS_SETUID, 0) // which it was
			p.want("0", unix.SYS_SETREUID, 42, 42)
			is(p, "42", "42", "33", "34")
			p.want("operation not permitted", unix.SYS_SETUID, 0)
			p.want("operation not permitted", unix.SYS_SETRESGID, 0, -1, -1)
			p.want("bad address", unix.SYS_GETRESUID, 8, 8, 8)
			is(other, "0", "0", "0", "0")
			// One that has become root again costs no more than before.
			other.want("0", unix.SYS_SETRESUID, -1, 33, -1)
			other.want("0", unix.SYS_SETRESUID, -1, 0, -1)
			must(t, other.s.Close())
			if n := len(other.s.identities); n > 0 {
				t.Errorf("%d processes are somebody else", n)
			}
			other.s = nil
		})
	}
}
