package owners

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// sees checks what a process sees of a file, by each of the calls that tell it.
func (p *target) sees(want, path string) {
	p.t.Helper()
	p.want(want, fstatat, cwd, path, "&stat", unix.AT_SYMLINK_NOFOLLOW)
	p.want(want, unix.SYS_STATX, cwd, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, "&statx")
}

// A process sees the owners that are recorded, of files of the layers and of those that it made or changed, whichever call it asks by.
func TestStat(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/", "lower/plain", "lower/owned", "lower/d/", "lower/link>owned", "lower/theirs>owned", "lower/null")
			must(t, unix.Setxattr(dir+"/lower/owned", layer.OwnerRecord, []byte("33:44"), 0))
			must(t, unix.Setxattr(dir+"/lower/d", layer.OwnerRecord, []byte("0:50:42775"), 0))
			must(t, os.Truncate(dir+"/lower/null", 0))
			must(t, unix.Setxattr(dir+"/lower/null", layer.OwnerRecord, []byte("0:6:20644:1:3"), 0))
			must(t, layer.Complete(dir+"/lower", layer.Completion{Links: []layer.LinkRecord{{Record: layer.Record{Owner: layer.Owner{UID: 7, GID: 8}}, Path: "theirs", Target: "owned"}}}))
			root, upper := mountLayer(t, dir)
			in, at := root, func(name string) string { return "/" + name }
			if os.Geteuid() != 0 {
				in, at = "", func(name string) string { return root + "/" + name }
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere(), layers: []string{dir + "/lower"}, upper: upper})
			p.sees("100644 0:0", at("plain"))
			p.sees("100644 33:44", at("owned"))
			p.sees("42775 0:50", at("d"))
			p.sees("120777 0:0", at("link"))
			if os.Geteuid() == 0 { // the others' records are of one tree
				p.sees("120777 7:8", at("theirs"))
			}
			p.sees("20644 0:6 1:3", at("null"))
			p.want("100644 33:44", fstatat, cwd, at("link"), "&stat", 0)
			p.want("no such file or directory", fstatat, cwd, at("none"), "&stat", 0)
			p.want("bad address", fstatat, cwd, at("owned"), 8, 0)
			p.want("bad address", unix.SYS_STATX, cwd, at("owned"), 0, unix.STATX_UID, 1<<46)
			p.want("0", unix.SYS_CHOWN, at("plain"), 5, 6)
			p.want("0", unix.SYS_LCHOWN, at("link"), 9, 10)
			p.want("0", unix.SYS_CHOWN, at("owned"), -1, 0)
			p.want("0", unix.SYS_MKDIRAT, cwd, at("new"), 0o700)
			p.want("0", unix.SYS_MKNODAT, cwd, at("zero"), unix.S_IFCHR|0o600, 0x105)
			p.sees("100644 5:6", at("plain"))
			p.sees("120777 9:10", at("link"))
			p.sees("100644 33:0", at("owned"))
			p.sees("40700 0:0", at("new"))
			p.sees("20600 0:0 1:5", at("zero"))
			fd := p.do(unix.SYS_OPENAT, cwd, at("plain"), unix.O_RDONLY, 0)
			p.want("100644 5:6", unix.SYS_FSTAT, number(fd), "&stat")
			p.want("100644 5:6", fstatat, number(fd), "", "&stat", unix.AT_EMPTY_PATH)
			p.want("100644 5:6", unix.SYS_STATX, number(fd), "", unix.AT_EMPTY_PATH, unix.STATX_UID, "&statx")
			p.want("100644 5:6", unix.SYS_STATX, number(fd), 0, unix.AT_EMPTY_PATH, unix.STATX_UID, "&statx")
			p.want("0", unix.SYS_CHDIR, at("d"))
			p.want("100644 33:0", fstatat, cwd, "../owned", "&stat", 0)
		})
	}
}

// A user of the image sees root's files as root's, and those that it made as its own.
func TestStatAsUser(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/plain", "lower/tmp/", "lower/written")
	must(t, os.Chmod(dir+"/lower/tmp", 0o777))
	root, upper := mountLayer(t, dir)
	since := time.Now()
	wait := func() { // until files are made later than that, by the filesystem's clock
		for coarse := (unix.Timespec{}); coarse.Nano() <= since.UnixNano(); {
			must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &coarse))
		}
	}
	wait()
	p := startSupervised(t, setting{Root: root, Rules: Rules{UID: 1000, GID: 100}, since: since, layers: []string{dir + "/lower"}, upper: upper})
	p.want("0", unix.SYS_MKDIRAT, cwd, "/tmp/mine", 0o755)
	must(t, os.WriteFile(root+"/written", []byte("more"), 0o644)) // which overlayfs copies
	for path, want := range map[string]string{"/": "40755 0:0", "/plain": "100644 0:0", "/tmp": "40777 0:0", "/written": "100644 0:0", "/tmp/mine": "40755 1000:100"} {
		p.sees(want, path)
	}
	p.want("operation not permitted", unix.SYS_CHOWN, "/plain", 1000, -1)
	p.want("operation not permitted", unix.SYS_CHOWN, "/written", 1000, -1)
	p.want("0", unix.SYS_CHOWN, "/tmp/mine", -1, 100)
	if got := is(t, upper, "written"); got != "100644 0:0" {
		t.Errorf("what root made is %s", got)
	}
}

// What a layer below has was not made by the step, however young it is: the step before may have ended since this one was prepared.
func TestStatAsUserOfYoungLayers(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/plain", "lower/theirs/", "lower/sub/", "lower/sub/theirs/")
	root, upper := mountLayer(t, dir)
	p := startSupervised(t, setting{Root: root, Rules: Rules{UID: 1000, GID: 100}, layers: []string{dir + "/lower"}, upper: upper})
	must(t, os.Mkdir(root+"/mine", 0o755))
	must(t, os.WriteFile(root+"/theirs/mine", nil, 0o644))
	sees := func() {
		t.Helper()
		for path, want := range map[string]string{
			"/": "40755 0:0", "/plain": "100644 0:0", "/theirs": "40755 0:0", "/sub/theirs": "40755 0:0", "/mine": "40755 1000:100", "/theirs/mine": "100644 1000:100",
		} {
			p.sees(want, path)
		}
	}
	sees()
	p.want("permission denied", unix.SYS_MKDIRAT, cwd, "/sub/theirs/x", 0o755)
	open := func(path string, flags int) int {
		t.Helper()
		return number(p.do(unix.SYS_OPENAT, cwd, path, flags, 0o644))
	}
	mine, plain := open("/mine/opened", unix.O_RDWR|unix.O_CREAT), open("/plain", unix.O_RDONLY)
	p.want("0", unix.SYS_LINKAT, cwd, "/mine/opened", cwd, "/mine/linked", 0)
	p.want("0", unix.SYS_UNLINKAT, cwd, "/mine/opened", 0)
	opened := func() {
		t.Helper()
		p.want("100644 1000:100", unix.SYS_FSTAT, mine, "&stat") // which has another name
		p.want("100644 0:0", unix.SYS_FSTAT, plain, "&stat")
	}
	opened()
	p.want("0", unix.SYS_CHROOT, "/") // from now on each caller's root is looked at
	sees()
	opened()
}

// Files in mounts from elsewhere are as the kernel tells, but for those that slipway gave a record.
func TestStatElsewhere(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "lower/", "lower/mnt/", "lower/owned", "theirs/", "theirs/f", "theirs/secret")
	must(t, unix.Setxattr(dir+"/theirs/secret", layer.OwnerRecord, []byte("8:8"), 0))
	must(t, unix.Setxattr(dir+"/lower/owned", layer.OwnerRecord, []byte("5:5"), 0))
	root, _ := mountLayer(t, dir)
	must(t, unix.Mount(dir+"/theirs", root+"/mnt", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root+"/mnt", unix.MNT_DETACH)) })
	p := startSupervised(t, setting{Root: root, Rules: Rules{Root: true}})
	p.sees("100644 0:0", "/mnt/f")
	p.sees("100644 8:8", "/mnt/secret")
	p.sees("100644 5:5", "/owned")
	// One that has another root sees what is there.
	p.want("0", unix.SYS_MKDIRAT, cwd, "/sub", 0o755)
	fill(t, root, "sub/owned")
	must(t, unix.Setxattr(root+"/sub/owned", layer.OwnerRecord, []byte("6:6"), 0))
	p.want("0", unix.SYS_CHROOT, "/sub")
	p.sees("100644 6:6", "/owned")
}

// Answers leave nothing behind.
func TestStatOfManyFiles(t *testing.T) {
	dir := as(t, "one ID")
	if dir == "" {
		return
	}
	fill(t, dir, "f")
	must(t, unix.Setxattr(dir+"/f", layer.OwnerRecord, []byte("5:5"), 0))
	p := startSupervised(t, setting{Root: dir, Rules: Rules{Root: true}})
	before := descriptors(t)
	for range 200 {
		p.sees("100644 5:5", "/f")
	}
	if after := descriptors(t); after > before+2 {
		t.Errorf("%d descriptors were open before, %d are after", before, after)
	}
}

func descriptors(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

// A directory in the place of another one looks like that one, and lets do what that one does.
func TestStandsFor(t *testing.T) {
	dir := as(t, "no capabilities")
	if dir == "" {
		return
	}
	fill(t, dir, "etc/", "etc/f", "home/")
	must(t, os.Chmod(dir+"/etc", 0o777))
	p := startSupervised(t, setting{Rules: Rules{UID: 33, GID: 34, Fake: true}, fixed: map[string]layer.Record{
		dir + "/etc": {Mode: unix.S_IFDIR | 0o755}, dir + "/home": {Owner: layer.Owner{UID: 33, GID: 34}, Mode: unix.S_IFDIR | 0o700},
	}})
	p.sees("40755 0:0", dir+"/etc")
	p.sees("40700 33:34", dir+"/home")
	p.want("permission denied", unix.SYS_MKDIRAT, cwd, dir+"/etc/x", 0o755)
	p.want("0", unix.SYS_MKDIRAT, cwd, dir+"/home/x", 0o755)
	p.want("33", unix.SYS_GETUID)
	p.want("34", unix.SYS_GETEGID)
}
