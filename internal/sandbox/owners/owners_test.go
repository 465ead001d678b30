package owners

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// rulesHere are those of root for the one who runs the test.
func rulesHere() Rules { return Rules{Root: true, Fake: os.Geteuid() != 0} }

const cwd = unix.AT_FDCWD

// mountLayer stacks a new directory on dir/lower, where that can be done, and returns where it is seen and where changes go. Without
// capabilities all is one directory.
func mountLayer(t *testing.T, dir string) (root, upper string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return dir + "/lower", dir + "/lower"
	}
	root, upper = dir+"/root", dir+"/upper"
	fill(t, dir, "root/", "upper/", "work/")
	must(t, unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,userxattr", dir)))
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	return root, upper
}

// Calls that change owners are answered as root's, and the layer has what they said.
func TestOwners(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/", "lower/d/", "lower/d/f", "lower/f", "lower/g", "lower/s", "lower/l>f", "lower/to>/d/f", "lower/loop>loop", "lower/d/up>../g")
			must(t, os.Chmod(dir+"/lower/s", 0o6755))
			root, upper := mountLayer(t, dir)
			in := root
			if os.Geteuid() != 0 { // who cannot change its root has that of the supervisor
				in = ""
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere()})
			at := func(name string) string {
				if in == "" {
					return filepath.Join(root, name)
				}
				return "/" + name
			}
			p.want("0", unix.SYS_CHOWN, at("f"), 33, 44)
			p.want("0", unix.SYS_CHOWN, at("l"), 5, -1) // the file
			p.want("0", unix.SYS_LCHOWN, at("l"), 7, 8)
			p.want("0", unix.SYS_FCHOWNAT, cwd, at("d"), 4294967294, 70000, 0)
			p.want("0", unix.SYS_CHDIR, at("d"))
			p.want("0", unix.SYS_CHOWN, "f", 1, 2)
			p.want("0", unix.SYS_CHOWN, "../g", 3, 4)
			p.want("0", unix.SYS_CHOWN, "../d/./up", -1, 6)
			p.want("0", unix.SYS_CHOWN, at("s"), 0, 12)
			p.want("no such file or directory", unix.SYS_CHOWN, at("none"), 1, 1)
			p.want("not a directory", unix.SYS_CHOWN, at("f/x"), 1, 1)
			p.want("too many levels of symbolic links", unix.SYS_CHOWN, at("loop"), 1, 1)
			p.want("bad file descriptor", unix.SYS_FCHOWN, 77, 1, 1)
			p.want("bad file descriptor", unix.SYS_FCHOWNAT, 77, "f", 1, 1, 0)
			p.want("bad address", unix.SYS_CHOWN, 8, 1, 1)
			p.want("invalid argument", unix.SYS_FCHOWNAT, cwd, at("f"), 1, 1, 0x4000)
			p.want("no such file or directory", unix.SYS_CHOWN, "", 1, 1)
			p.want("file name too long", unix.SYS_CHOWN, "/"+strings.Repeat("x/", 3000), 1, 1)
			fd := p.do(unix.SYS_OPENAT, cwd, at("d/f"), unix.O_RDWR|unix.O_CREAT, 0o600)
			p.want("3", unix.SYS_DUP3, number(fd), 3, 0)
			p.want("0", unix.SYS_FCHOWN, 3, 9, -1)
			p.want("0", unix.SYS_FCHOWNAT, 3, "", -1, 10, unix.AT_EMPTY_PATH)
			p.want("0", unix.SYS_CHOWN, "/dev/fd/3", -1, 11)
			p.want("0", unix.SYS_CHOWN, "/dev/stdout", 5, 5)
			p.want("0", unix.SYS_MKNODAT, cwd, at("null"), unix.S_IFCHR|0o666, 0x103)
			p.want("0", unix.SYS_MKNODAT, cwd, "zero", unix.S_IFBLK|0o600, 0x12345)
			p.want("file exists", unix.SYS_MKNODAT, cwd, at("null"), unix.S_IFCHR|0o666, 0x103)
			p.want("0", unix.SYS_MKNODAT, cwd, at("pipe"), unix.S_IFIFO|0o644, 0)
			p.want("0", unix.SYS_CHOWN, at("pipe"), 21, 22)
			p.want("0", unix.SYS_SETXATTR, at("g"), "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20, 0)
			p.want("0", unix.SYS_SETXATTR, at("d"), "trusted.x", "y", 1, 0)
			p.want("0", unix.SYS_SETXATTR, at("d"), "user.x", "y", 1, 0)
			p.want("0", unix.SYS_LSETXATTR, at("d"), "trusted.z", "y", 1, 0)
			p.want("0", unix.SYS_REMOVEXATTR, at("d"), "trusted.z")
			p.want("no data available", unix.SYS_REMOVEXATTR, at("d"), "user.z")
			const capability = `"\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`
			p.want(capability, unix.SYS_GETXATTR, at("g"), "security.capability", "&text", 256)
			p.want(capability, unix.SYS_LGETXATTR, at("g"), "security.capability", "&text", 20)
			p.want("20", unix.SYS_GETXATTR, at("g"), "security.capability", 0, 0)
			p.want("numerical result out of range", unix.SYS_GETXATTR, at("g"), "security.capability", "&text", 19)
			p.want("bad address", unix.SYS_GETXATTR, at("g"), "security.capability", 8, 64)
			p.want("no data available", unix.SYS_GETXATTR, at("g"), "security.ima", "&text", 256)
			p.want("no such file or directory", unix.SYS_GETXATTR, at("none"), "security.capability", "&text", 256)
			p.want(`"y"`, unix.SYS_GETXATTR, at("d"), "trusted.x", "&text", 256)
			p.want("3", unix.SYS_DUP3, number(p.do(unix.SYS_OPENAT, cwd, at("g"), unix.O_RDONLY)), 3, 0)
			p.want(capability, unix.SYS_FGETXATTR, 3, "security.capability", "&text", 256)
			for _, list := range []string{p.do(unix.SYS_LISTXATTR, at("g"), "&text", 256), p.do(unix.SYS_LLISTXATTR, at("g"), "&text", 256), p.do(unix.SYS_FLISTXATTR, 3, "&text", 256)} {
				if strings.Count(list, `security.capability\x00`) < 1 {
					t.Errorf("the attributes of a file that was given security.capability are %s", list)
				}
			}
			p.want("numerical result out of range", unix.SYS_LISTXATTR, at("g"), "&text", 4)
			p.want("bad address", unix.SYS_LISTXATTR, at("g"), 8, 256)
			must(t, p.s.Close())
			links := p.s.Links()
			p.s = nil
			must(t, layer.Complete(upper, layer.Completion{Links: links}))
			for name, want := range map[string]string{
				"f": "100644 5:44", "l": "120777 7:8", "d": "40755 4294967294:70000 trusted.x=79 user.x=79", "d/f": "100644 9:11",
				"g": "100644 3:6 security.capability=0100000200200000000000000000000000000000", "s": "100755 0:12",
				"null": "20644 0:0 1:3", "d/zero": "60600 0:0 291:69", "pipe": "10644 21:22",
			} {
				if got := is(t, upper, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

func number(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// Who has no capabilities is told that it is root, and keeps its files readable whatever permissions they get.
func TestFakedRoot(t *testing.T) {
	dir := as(t, "no capabilities")
	if dir == "" {
		return
	}
	fill(t, dir, "f", "d/")
	p := startSupervised(t, setting{Rules: rulesHere()})
	for _, call := range []uintptr{unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID} {
		p.want("0", call)
	}
	p.want("bad address", unix.SYS_GETRESUID, 8, 8, 8)
	for _, step := range []struct {
		mode       int
		want, disk string
	}{{0, "100000 0:0", "600"}, {0o644, "100644 0:0", "644"}, {0o4111, "104111 0:0", "4711"}, {0o444, "100444 0:0", "644"}} {
		p.want("0", unix.SYS_FCHMODAT, cwd, dir+"/f", step.mode)
		fi, err := os.Lstat(dir + "/f")
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(dir+"/f", &st))
		if got := is(t, dir, "f"); got != step.want || fmt.Sprintf("%o", st.Mode&0o7777) != step.disk {
			t.Errorf("with mode %o it is %s, on the disk %v, want %s and %s", step.mode, got, fi.Mode(), step.want, step.disk)
		}
	}
	p.want("0", unix.SYS_FCHMODAT, cwd, dir+"/f", 0o4511)
	p.want("0", unix.SYS_CHOWN, dir+"/f", 7, 8)
	if got, want := is(t, dir, "f"), "100511 7:8"; got != want {
		t.Errorf("after chown it is %s, want %s", got, want)
	}
	must(t, os.Chmod(dir+"/d", 0o500))
	p.want("0", unix.SYS_CHOWN, dir+"/d", 7, 8)
	if got, want := is(t, dir, "d"), "40500 7:8"; got != want {
		t.Errorf("a directory that was closed is %s, want %s", got, want)
	}
	p.want("0", unix.SYS_SETGROUPS, 0, 0)
	p.want("0", unix.SYS_SETRESGID, 33, 33, 33)
	p.want("0", unix.SYS_SETUID, 33)
}

// New files belong to the user of the step, or to the group of their directory; what was there before stays as it is.
func TestComplete(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/old", "lower/staff/", "lower/d/", "lower/owned")
	must(t, os.Chmod(dir+"/lower/staff", os.ModeSetgid|0o775))
	set := func(name, record string) { must(t, unix.Setxattr(dir+"/"+name, layer.OwnerRecord, []byte(record), 0)) }
	set("lower/staff", "0:50")
	set("lower/owned", "3:4")
	root, upper := mountLayer(t, dir)
	fill(t, root, "staff/new", "staff/sub/", "staff/sub/file", "new", "d/l>x", "d/in/")
	must(t, unix.Mkfifo(root+"/staff/pipe", 0o600))
	for _, name := range []string{"old", "owned"} {
		f, err := os.OpenFile(root+"/"+name, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("more")
		must(t, err)
		must(t, f.Close())
	}
	must(t, os.Remove(root+"/d/in"))
	must(t, layer.Complete(upper, layer.Completion{New: layer.Owner{UID: 1000, GID: 100}}))
	for name, want := range map[string]string{
		"old": "100644 0:0", "owned": "100644 3:4", "staff": "42775 0:50", "staff/new": "100644 1000:50", "staff/sub": "42755 1000:50",
		"staff/sub/file": "100644 1000:50", "staff/pipe": "10600 1000:50", "new": "100644 1000:100", "d": "40755 0:0", "d/l": "120777 1000:100",
	} {
		if got := is(t, upper, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
