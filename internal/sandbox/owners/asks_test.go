package owners

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// Who asks whether he may write is told no where he would be refused, whichever call asks, and of the IDs that the call is about.
func TestAsks(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/", "lower/etc/", "lower/etc/f", "lower/tmp/", "lower/home/")
			must(t, os.Chmod(dir+"/lower/tmp", 0o777))
			must(t, unix.Setxattr(dir+"/lower/home", layer.OwnerRecord, []byte("33:34"), 0))
			root, upper := mountLayer(t, dir)
			in, at := root, func(name string) string { return "/" + name }
			if os.Geteuid() != 0 {
				in, at = "", func(name string) string { return root + "/" + name }
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere(), layers: []string{dir + "/lower"}, upper: upper})
			p.want("0", unix.SYS_FACCESSAT, cwd, at("etc"), unix.W_OK)
			p.want("0", unix.SYS_SETRESUID, -1, 33, 0)
			p.want("0", unix.SYS_FACCESSAT, cwd, at("etc"), unix.W_OK) // the real one is root
			p.want("permission denied", unix.SYS_FACCESSAT2, cwd, at("etc"), unix.W_OK, unix.AT_EACCESS)
			p.want("0", unix.SYS_SETRESUID, -1, 0, -1)
			p.want("0", unix.SYS_SETRESUID, 33, 33, 33)
			p.want("permission denied", unix.SYS_FACCESSAT, cwd, at("etc"), unix.W_OK|unix.X_OK)
			p.want("permission denied", unix.SYS_FACCESSAT2, cwd, at("etc/f"), unix.W_OK, unix.AT_EACCESS)
			p.want("0", unix.SYS_FACCESSAT, cwd, at("etc"), unix.R_OK|unix.X_OK)
			p.want("0", unix.SYS_FACCESSAT, cwd, at("tmp"), unix.W_OK)
			p.want("0", unix.SYS_FACCESSAT, cwd, at("home"), unix.W_OK|unix.X_OK)
			p.want("no such file or directory", unix.SYS_FACCESSAT, cwd, at("none"), unix.W_OK)
		})
	}
}

// What root makes that has another group belongs to that, a directory whatever its name ends with, and a device to the group of its directory.
func TestMakesAsGroup(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/", "lower/staff/", "lower/closed/")
			must(t, os.Chmod(dir+"/lower/staff", os.ModeSetgid|0o755))
			must(t, os.Chmod(dir+"/lower/closed", 0o555))
			must(t, unix.Setxattr(dir+"/lower/staff", layer.OwnerRecord, []byte("7:50"), 0))
			root, upper := mountLayer(t, dir)
			in, at := root, func(name string) string { return "/" + name }
			if os.Geteuid() != 0 {
				in, at = "", func(name string) string { return root + "/" + name }
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere(), layers: []string{dir + "/lower"}, upper: upper})
			p.want("0", unix.SYS_MKNODAT, cwd, at("staff/null"), unix.S_IFCHR|0o600, 0x103)
			p.want("0", unix.SYS_SETRESGID, 34, 34, 0)
			p.want("0", unix.SYS_MKDIRAT, cwd, at("dir//"), 0o750)
			p.want("0", unix.SYS_MKDIRAT, cwd, at("staff/sub"), 0o750)
			p.want("0", unix.SYS_MKNODAT, cwd, at("zero"), unix.S_IFCHR|0o600, 0x105)
			must2(t, p.do(unix.SYS_OPENAT, cwd, at("file"), unix.O_WRONLY|unix.O_CREAT, 0o644))
			p.want("0", unix.SYS_SYMLINKAT, "x", cwd, at("link"))
			p.want("0", unix.SYS_SETRESUID, 33, 33, 33)
			p.want("invalid argument", unix.SYS_SETUID, -1)
			p.want("permission denied", unix.SYS_MKDIRAT, cwd, at("closed/d/"), 0o755)
			must(t, p.s.Close())
			links := p.s.Links()
			p.s = nil
			must(t, layer.Complete(upper, layer.Completion{Links: links}))
			for name, want := range map[string]string{
				"staff/null": "20600 0:50 1:3", "dir": "40750 0:34", "staff/sub": "42750 0:50", "zero": "20600 0:34 1:5", "file": "100644 0:34", "link": "120777 0:34",
			} {
				if got := is(t, upper, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

// The record of a link that is gone is not that of another one in its place, or with its number.
func TestLinkInThePlaceOfAnother(t *testing.T) {
	for who := range lesser {
		t.Run(who, func(t *testing.T) {
			dir := as(t, who)
			if dir == "" {
				return
			}
			fill(t, dir, "lower/")
			root, upper := mountLayer(t, dir)
			in, at := root, func(name string) string { return "/" + name }
			if os.Geteuid() != 0 {
				in, at = "", func(name string) string { return root + "/" + name }
			}
			p := startSupervised(t, setting{Root: in, Rules: rulesHere(), upper: upper})
			for range 20 { // until numbers come again
				p.want("0", unix.SYS_SYMLINKAT, "x", cwd, at("link"))
				p.sees("120777 0:0", at("link"))
				p.want("0", unix.SYS_LCHOWN, at("link"), 7, 8)
				p.sees("120777 7:8", at("link"))
				p.want("0", unix.SYS_UNLINKAT, cwd, at("link"), 0)
			}
			p.want("0", unix.SYS_SYMLINKAT, "x", cwd, at("kept"))
			p.want("0", unix.SYS_LCHOWN, at("kept"), 7, 8)
			p.want("0", unix.SYS_LINKAT, cwd, at("kept"), cwd, at("second"), 0)
			p.want("0", unix.SYS_RENAMEAT2, cwd, at("kept"), cwd, at("moved"), 0)
			p.want("0", unix.SYS_SYMLINKAT, "x", cwd, at("link"))
			must(t, p.s.Close())
			links := p.s.Links()
			p.s = nil
			must(t, layer.Complete(upper, layer.Completion{Links: links}))
			for name, want := range map[string]string{"link": "120777 0:0", "moved": "120777 7:8", "second": "120777 7:8"} {
				if got := is(t, upper, name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}
