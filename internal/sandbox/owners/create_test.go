package owners

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// What a process makes that has become somebody else belongs to that one, however it is made, and what another one makes to root.
func TestMakesAsSomebodyElse(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/", "lower/open/", "lower/staff/", "lower/closed/", "lower/theirs", "lower/old")
			must(t, os.Chmod(dir+"/lower/open", 0o777))
			must(t, os.Chmod(dir+"/lower/staff", os.ModeSetgid|0o777))
			must(t, os.Chmod(dir+"/lower/old", 0o666))
			must(t, unix.Setxattr(dir+"/lower/staff", layer.OwnerRecord, []byte("0:50"), 0))
			root, upper := mountLayer(t, dir)
			in, at := root, func(name string) string { return "/" + name }
			if os.Geteuid() != 0 {
				in, at = "", func(name string) string { return root + "/" + name }
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere(), layers: []string{dir + "/lower"}, upper: upper})
			p.want("0", unix.SYS_MKDIRAT, cwd, at("open/roots"), 0o755)
			p.want("0", unix.SYS_SETGROUPS, 0, 0)
			p.want("0", unix.SYS_SETRESGID, 34, 34, 34)
			p.want("0", unix.SYS_SETRESUID, 33, 33, 33)
			p.want("0", unix.SYS_MKDIRAT, cwd, at("open/dir"), 0o750)
			p.want("0", unix.SYS_SYMLINKAT, "dir", cwd, at("open/link"))
			p.want("0", unix.SYS_MKNODAT, cwd, at("open/pipe"), unix.S_IFIFO|0o600, 0)
			fd := p.do(unix.SYS_OPENAT, cwd, at("open/file"), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
			p.want("3", unix.SYS_WRITE, number(fd), "abc", 3)
			p.want("1", unix.SYS_FCNTL, number(fd), unix.F_GETFD, 0) // it is closed by execve
			again := p.do(unix.SYS_OPENAT, cwd, at("open/file"), unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644)
			p.want("3", unix.SYS_WRITE, number(again), "def", 3)
			p.want("file exists", unix.SYS_OPENAT, cwd, at("open/file"), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
			p.want("0", unix.SYS_MKDIRAT, cwd, at("staff/sub"), 0o755)
			must2(t, p.do(unix.SYS_OPENAT, cwd, at("staff/closed"), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o400))
			p.sees("100644 33:34", at("open/file"))
			p.want("0", unix.SYS_CHOWN, at("open/file"), -1, 34)
			const no, not = "permission denied", "operation not permitted"
			p.want(no, unix.SYS_MKDIRAT, cwd, at("closed/dir"), 0o755)
			p.want(no, unix.SYS_SYMLINKAT, "x", cwd, at("closed/link"))
			p.want(no, unix.SYS_OPENAT, cwd, at("closed/file"), unix.O_WRONLY|unix.O_CREAT, 0o644)
			p.want(no, unix.SYS_OPENAT, cwd, at("theirs"), unix.O_WRONLY|unix.O_CREAT, 0o644)
			p.want(not, unix.SYS_CHOWN, at("theirs"), 33, -1)
			p.want(not, unix.SYS_MKNODAT, cwd, at("open/null"), unix.S_IFCHR|0o600, 0x103)
			p.want(not, unix.SYS_CHOWN, at("open/file"), 0, -1)
			must2(t, p.do(unix.SYS_OPENAT, cwd, at("old"), unix.O_WRONLY|unix.O_CREAT, 0o644))
			must(t, p.s.Close())
			links := p.s.Links()
			p.s = nil
			must(t, layer.Complete(upper, layer.Completion{Links: links}))
			for name, want := range map[string]string{
				"open/roots": "40755 0:0", "open/dir": "40750 33:34", "open/link": "120777 33:34", "open/pipe": "10600 33:34", "open/file": "100644 33:34",
				"staff/sub": "42755 33:50", "staff/closed": "100400 33:50",
			} {
				if got := is(t, upper, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if text, err := os.ReadFile(upper + "/open/file"); err != nil || string(text) != "abcdef" {
				t.Errorf("the file has %q (%v)", text, err)
			}
		})
	}
}

// must2 checks that a call gave a descriptor.
func must2(t *testing.T, got string) {
	t.Helper()
	if number(got) < 3 {
		t.Errorf("a file was not opened: %s", got)
	}
}

// A user may not change what is not his, whatever the kernel allows the one ID.
func TestUserMayNot(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/etc/", "lower/etc/f", "lower/tmp/", "lower/tmp/theirs", "lower/group", "lower/home/", "lower/home/x", "lower/cache/", "lower/cache/kept")
	must(t, os.Chmod(dir+"/lower/tmp", os.ModeSticky|0o777))
	must(t, os.Chmod(dir+"/lower/group", 0o664))
	must(t, unix.Setxattr(dir+"/lower/group", layer.OwnerRecord, []byte("0:50"), 0))
	must(t, unix.Setxattr(dir+"/lower/home", layer.OwnerRecord, []byte("1000:100"), 0))
	root, upper := mountLayer(t, dir)
	since := time.Now()
	for coarse := (unix.Timespec{}); coarse.Nano() <= since.UnixNano(); {
		must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &coarse))
	}
	p := startSupervised(t, setting{Root: root, Rules: Rules{UID: 1000, GID: 100, Groups: []uint32{60, 50}}, since: since, layers: []string{dir + "/lower"}, upper: upper,
		kept: []string{"cache"}})
	const no, not = "permission denied", "operation not permitted"
	p.want(no, unix.SYS_OPENAT, cwd, "/etc/f", unix.O_WRONLY, 0)
	p.want(no, unix.SYS_OPENAT, cwd, "/etc/f", unix.O_RDWR|unix.O_CREAT, 0o644)
	p.want(no, unix.SYS_OPENAT, cwd, "/etc/new", unix.O_RDWR|unix.O_CREAT, 0o644)
	p.want(no, unix.SYS_TRUNCATE, "/etc/f", 0)
	p.want(no, unix.SYS_MKDIRAT, cwd, "/etc/new", 0o755)
	p.want(no, unix.SYS_UNLINKAT, cwd, "/etc/f", 0)
	p.want(no, unix.SYS_UNLINKAT, cwd, "/home/", unix.AT_REMOVEDIR)
	p.want(no, unix.SYS_LINKAT, cwd, "/group", cwd, "/etc/g", 0)
	p.want(no, unix.SYS_RENAMEAT2, cwd, "/home/x", cwd, "/etc/x", 0)
	p.want(no, unix.SYS_RENAMEAT2, cwd, "/etc/f", cwd, "/home/f", 0)
	p.want(not, unix.SYS_UNLINKAT, cwd, "/tmp/theirs", 0)
	p.want(not, unix.SYS_FCHMODAT, cwd, "/etc/f", 0o666)
	must2(t, p.do(unix.SYS_OPENAT, cwd, "/etc/f", unix.O_RDONLY, 0))
	must2(t, p.do(unix.SYS_OPENAT, cwd, "/group", unix.O_WRONLY, 0))
	must2(t, p.do(unix.SYS_OPENAT, cwd, "/tmp/mine", unix.O_WRONLY|unix.O_CREAT, 0o644))
	must2(t, p.do(unix.SYS_OPENAT, cwd, "/cache/kept", unix.O_WRONLY, 0)) // by an earlier step of the same user, perhaps
	p.want("0", unix.SYS_FCHMODAT, cwd, "/tmp/mine", 0o666)
	p.want("0", unix.SYS_RENAMEAT2, cwd, "/tmp/mine", cwd, "/home/mine", 0)
	p.want("0", unix.SYS_MKDIRAT, cwd, "/home/dir", 0o755)
	p.want("0", unix.SYS_MKDIRAT, cwd, "/home/dir/sub", 0o755)
	p.want("0", unix.SYS_UNLINKAT, cwd, "/home/x", 0)
	p.want("2", unix.SYS_GETGROUPS, 0, 0)
	p.sees("40755 1000:100", "/home/dir/sub")
	p.sees("100644 1000:100", "/cache/kept")
	must(t, p.s.Close())
	p.s = nil
}
