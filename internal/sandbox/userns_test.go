package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// owner is a file's owner on the host.
func owner(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func (l *lab) chown(uid, gid int, paths ...string) {
	l.t.Helper()
	for _, path := range paths {
		if err := os.Lchown(path, uid, gid); err != nil {
			l.t.Fatal(err)
		}
	}
}

// TestUserNS: what depends on owners, mounts, namespaces and cgroups is in a user namespace as without one, but
// for making devices and what is for insecure processes.
func TestUserNS(t *testing.T) {
	if testing.Short() {
		t.Skip("long: half of the suite in user namespaces")
	}
	for name, test := range map[string]func(*lab){
		"Output": testOutput, "Stdin": testStdin, "Terminal": testTerminal, "Users": testUsers, "OddUserFiles": testOddUserFiles,
		"Cancel": testCancel, "Leftovers": testLeftovers, "KilledParent": testKilledParent, "Ulimits": testUlimits,
		"Cwd": testCwd, "Upper": testUpper, "HiddenStubs": testHiddenStubs, "SwappedMountPoint": testSwappedMountPoint, "NoTrace": testNoTrace, "Scratch": testScratch,
		"ReadOnlyRoot": testReadOnlyRoot, "Bind": testBind, "RootMounts": testRootMounts, "Tmpfs": testTmpfs,
		"NestedMounts": testNestedMounts, "ManyLayers": testManyLayers,
		"Network": testNetwork, "Bridge": testBridge, "SharedNetwork": testSharedNetwork, "Files": testFiles, "ContainerFiles": testContainerFiles, "Sysctls": testSysctls, "Capabilities": testCapabilities, "Forbidden": testForbidden,
		"File": testFile, "Socket": testSocket, "Final": testFinal,
		"MaskedPaths": testMaskedPaths, "Cgroup": testCgroup, "CgroupView": testCgroupView, "Limits": testLimits, "MaxProcesses": testMaxProcesses, "MemoryLimit": testMemoryLimit,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(t testing.TB, state string) Runner {
				r, err := New(Options{StateDir: state})
				if err != nil {
					t.Fatal(err)
				}
				return r
			})
			l.linked, l.userns = true, true
			test(l)
		})
	}
}

// refusesUserNS checks that a runner without user namespaces says so, and reports whether it is one.
func (l *lab) refusesUserNS() bool {
	if l.linked && !nested() {
		return false
	}
	spec := l.spec("true")
	spec.UserNS = true
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "--userns=host") {
		l.t.Errorf("a runtime without user namespaces: got %v", err)
	}
	return true
}

// testUserNSOwners: what is on the disk has the owners that the process sees.
func testUserNSOwners(l *lab) {
	if l.refusesUserNS() {
		return
	}
	ipc := l.command("stat", "-c", "%u", "/dev/mqueue")
	ipc.UserNS = true
	if got := l.run(ipc); l.linked && got != "0" {
		l.t.Errorf("the owner of /dev/mqueue: got %q", got)
	}
	users := filepath.Join(l.image, "home/user")
	write(l.t, filepath.Join(users, "file"), "text")
	l.chown(1000, 1001, users, filepath.Join(users, "file"))
	top := filepath.Join(l.t.TempDir(), "top")
	mkdir(l.t, filepath.Join(top, "opt"))
	l.chown(65534, 65534, filepath.Join(top, "opt"))
	cache, plain := l.t.TempDir(), l.t.TempDir()
	write(l.t, filepath.Join(cache, "old"), "")
	l.chown(7, 8, filepath.Join(cache, "old"))

	spec := l.spec(`id -u; id -g; cat /proc/self/uid_map
stat -c '%u:%g %n' / /tmp /home/user /home/user/file /opt /cache/old /plain /dev /dev/null /dev/shm /dev/pts/ptmx /etc/hosts /etc/resolv.conf /run/t /made
echo x >/tmp/new; echo y >/tmp/given; chown 123:456 /tmp/given; mkdir /made/dir; echo changed >/home/user/file; rm /bin/true; echo z >/cache/new; echo to >/dev/stdout; echo null >/dev/null`)
	spec.UserNS = true
	spec.Cwd = "/made"
	spec.Root.Lower = append(spec.Root.Lower, top)
	spec.Mounts = []Mount{{Dest: "/cache", Bind: cache, Mapped: true}, {Dest: "/plain", Bind: plain}, {Dest: "/run/t", Tmpfs: &Tmpfs{}}}
	got := strings.Fields(l.run(spec))
	if len(got) < 5 || got[0] != "0" || got[1] != "0" || got[2] != "0" || got[3] == "0" || got[4] != "65536" {
		l.t.Fatalf("uid, gid and mapping: got %q; want 0, 0, and 65536 IDs from 0 that are others on the host", got)
	}
	want := "0:0 / 0:0 /tmp 1000:1001 /home/user 1000:1001 /home/user/file 65534:65534 /opt 7:8 /cache/old 65534:65534 /plain " +
		"0:0 /dev 0:0 /dev/null 0:0 /dev/shm 0:0 /dev/pts/ptmx 0:0 /etc/hosts 0:0 /etc/resolv.conf 0:0 /run/t 0:0 /made to"
	if seen := strings.Join(got[5:], " "); seen != want {
		l.t.Errorf("owners in the namespace:\ngot  %s\nwant %s", seen, want)
	}
	for path, want := range map[string]string{
		"tmp/new": "0:0", "tmp/given": "123:456", "made": "0:0", "made/dir": "0:0", "home/user/file": "1000:1001", "home/user": "1000:1001", "bin/true": "0:0",
	} {
		if got := owner(l.t, filepath.Join(spec.Root.Upper, path)); got != want {
			l.t.Errorf("owner of /%s in the layer: got %s, want %s", path, got, want)
		}
	}
	if got := owner(l.t, filepath.Join(cache, "new")); got != "0:0" {
		l.t.Errorf("owner of a new file in a cache: got %s, want 0:0", got)
	}
}

// testUserNSUsers: other users than root have what is made for them.
func testUserNSUsers(l *lab) {
	if l.refusesUserNS() {
		return
	}
	spec := l.spec("id -u; stat -c '%u:%g %a %n' /run/secret /job; cat /run/secret; touch /job/file; echo e >/dev/stderr")
	spec.UserNS, spec.User, spec.Cwd = true, "user", "/job"
	spec.Mounts = []Mount{{Dest: "/run/secret", File: &File{Data: []byte("hush\n"), Mode: 0o400, UID: 1000, GID: 1001}}}
	want := "1000\n1000:1001 400 /run/secret\n1000:1001 755 /job\nhush\ne"
	if got := l.run(spec); got != want {
		l.t.Errorf("as a user: got %q, want %q", got, want)
	}
	if got := owner(l.t, filepath.Join(spec.Root.Upper, "job/file")); got != "1000:1001" {
		l.t.Errorf("owner of a user's file in the layer: got %s, want 1000:1001", got)
	}
	spec = l.spec("stat -c %u:%g:%a /run/secret; cat /run/secret")
	spec.UserNS = true
	spec.Mounts = []Mount{{Dest: "/run/secret", File: &File{Data: []byte("hush"), Mode: 0o400}}}
	if got := l.run(spec); got != "0:0:400\nhush" {
		l.t.Errorf("root's secret: got %q", got)
	}
}

// testUserNSRoot: root of the namespace is nobody on the host, whichever way it became that.
func testUserNSRoot(l *lab) {
	if l.refusesUserNS() {
		return
	}
	l.setuid()
	mark := fmt.Sprintf("8%d.%d", os.Getpid(), ids.Add(1))
	for name, script := range map[string]string{"root": "id -u; echo ready; read x; : MARK", "set-ID program": "/bin/su -c 'id -u; echo ready; read x; : MARK'"} {
		spec := l.spec(strings.ReplaceAll(script, "MARK", mark))
		spec.UserNS = true
		if name != "root" {
			spec.User = "user"
		}
		in, inner, err := os.Pipe()
		if err != nil {
			l.t.Fatal(err)
		}
		seen := make(chan string, 1)
		var text string
		out := writerFunc(func(p []byte) {
			text += string(p)
			if strings.HasSuffix(text, "ready\n") {
				seen <- hostUsers(l.t, mark)
				_ = inner.Close()
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_ = l.runner.Run(ctx, spec, IO{Stdin: in, Stdout: out, Stderr: out}) // read fails at the end of its input
		cancel()
		_ = in.Close()
		select {
		case users := <-seen:
			if !strings.HasPrefix(text, "0\n") {
				l.t.Errorf("%s: got %q, want user 0 in the namespace", name, text)
			}
			if users == "" || strings.Contains(" "+users+" ", " 0 ") {
				l.t.Errorf("%s: users on the host: got %q, want others than 0", name, users)
			}
		default:
			l.t.Errorf("%s: never ready: %q", name, text)
		}
	}
}

// setuid gives the image a su that anybody may use.
func (l *lab) setuid() {
	l.t.Helper()
	su := filepath.Join(l.image, "bin/su")
	data, err := os.ReadFile(busybox)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.Remove(su); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(su, data, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Chmod(su, 0o755|os.ModeSetuid); err != nil {
		l.t.Fatal(err)
	}
	write(l.t, filepath.Join(l.image, "etc/passwd"), "root::0:0::/root:/bin/sh\nuser::1000:1001::/home/user:/bin/sh\n")
}

// hostUsers are all users that processes with mark in their arguments are on the host.
func hostUsers(t testing.TB, mark string) string {
	t.Helper()
	var users []string
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline")) // it may have ended
		status, _ := os.ReadFile(path)
		if !strings.Contains(string(args), mark) {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				users = append(users, strings.Fields(rest)...)
			}
		}
	}
	return strings.Join(users, " ")
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// fileCapability is an extended attribute with CAP_KILL, in force at once.
var fileCapability = []byte("\x01\x00\x00\x02\x20\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

// testUserNSCapabilities: capabilities of files, which the kernel keeps with the root that they are for, are
// those of any root in layers.
func testUserNSCapabilities(l *lab) {
	if l.refusesUserNS() {
		return
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		l.t.Fatal(err)
	}
	tool, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		l.t.Fatal(err)
	}
	dir := l.t.TempDir()
	for path, data := range map[string][]byte{filepath.Join(l.image, "bin/busybox2"): program, filepath.Join(l.image, "bin/busybox3"): program, filepath.Join(dir, "tool"): tool} {
		if err := os.WriteFile(path, data, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := unix.Setxattr(filepath.Join(l.image, "bin/busybox2"), "security.capability", fileCapability, 0); err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec(`/tools/tool -test.run '^TestCapabilityHelper$' >/dev/null || exit 1; touch /bin/busybox2
for f in busybox2 busybox3; do /bin/su user -c "/bin/$f cat /proc/self/status" | grep CapEff; done`)
	spec.UserNS, spec.Env = true, []string{"SLIPWAY_TEST_CAPABILITY=/bin/busybox3"}
	spec.Mounts = []Mount{
		{Dest: "/tools", Bind: dir}, {Dest: "/lib", Bind: "/lib", ReadOnly: true}, {Dest: "/lib64", Bind: "/lib64", ReadOnly: true}, {Dest: "/usr", Bind: "/usr", ReadOnly: true},
	}
	if got := l.run(spec); strings.Count(got, "0000000000000020") != 2 {
		l.t.Errorf("capabilities of programs from below and made here: got %q, want CAP_KILL", got)
	}
	for _, name := range []string{"busybox2", "busybox3"} {
		value := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(spec.Root.Upper, "bin", name), "security.capability", value)
		if err != nil || string(value[:n]) != string(fileCapability) {
			l.t.Errorf("capabilities of /bin/%s in the layer: got %x, %v; want %x", name, value[:max(n, 0)], err, fileCapability)
		}
	}
}

// TestCapabilityHelper is the program that testUserNSCapabilities runs in a container.
func TestCapabilityHelper(t *testing.T) {
	path := os.Getenv("SLIPWAY_TEST_CAPABILITY")
	if path == "" {
		t.Skip("run by another test only")
	}
	if err := unix.Setxattr(path, "security.capability", fileCapability, 0); err != nil {
		t.Fatal(err)
	}
}

// testUserNSErrors: what cannot be had with a user namespace says so.
func testUserNSErrors(l *lab) {
	if l.refusesUserNS() {
		return
	}
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"filesystem that cannot be mapped": {func(s *Spec) { s.Mounts = []Mount{{Dest: "/x", Bind: "/proc/sys", Mapped: true}} }, "files in /proc/sys"},
		"owner out of range":               {func(s *Spec) { s.Mounts = []Mount{{Dest: "/x", File: &File{UID: 70000}}} }, "owner 70000:0"},
		"insecure":                         {func(s *Spec) { s.Insecure = true }, "privileged mode"},
	} {
		spec := l.spec("true")
		spec.UserNS = true
		c.change(spec)
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--userns=host") {
			l.t.Errorf("%s: got %v, want an error with %q and --userns=host", name, err, c.want)
		}
	}
}

func TestHostIDs(t *testing.T) {
	two := []user.IDMap{{ID: 0, ParentID: 100000, Count: 1000}, {ID: 1000, ParentID: 300000, Count: 64536}}
	few := []user.IDMap{{ID: 0, ParentID: 100000, Count: 1000}}
	fixed := []user.IDMap{{ID: 0, ParentID: firstID, Count: idCount}}
	type ids struct{ users, groups []user.IDMap }
	for name, c := range map[string]struct {
		have map[string]ids
		want []user.IDMap // nil: an error
	}{
		"nobody's":       {nil, fixed},
		"root's":         {map[string]ids{"root": {two, two}}, two},
		"slipway first":  {map[string]ids{"root": {few, few}, "slipway": {two, two}}, two},
		"too few":        {map[string]ids{"root": {few, few}}, nil},
		"too few users":  {map[string]ids{"root": {few, two}}, nil},
		"too few groups": {map[string]ids{"root": {two, few}}, nil},
	} {
		got, err := hostIDs(t.TempDir(), func(name string) (user.IdentityMapping, error) {
			m, ok := c.have[name]
			if !ok {
				return user.IdentityMapping{}, errors.New("none")
			}
			return user.IdentityMapping{UIDMaps: m.users, GIDMaps: m.groups}, nil
		})
		switch {
		case c.want == nil && (err == nil || !strings.Contains(err.Error(), "less than 65536 IDs for root")):
			t.Errorf("%s: got %v, %v; want an error", name, got, err)
		case c.want != nil && (err != nil || !slices.Equal(got.UIDMaps, c.want) || !slices.Equal(got.GIDMaps, c.want)):
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.want)
		}
	}
}

// TestTakenIDs: IDs that somebody has are not given to containers.
func TestTakenIDs(t *testing.T) {
	last := firstID + idCount - 1
	for _, c := range []struct{ file, text, want string }{
		{"passwd", fmt.Sprintf("root:x:0:0::/:\nlow:x:%d:0::/:\nhigh:x:%d:0::/:\n", firstID-1, last+1), ""},
		{"passwd", fmt.Sprintf("root:x:0:0::/:\nfirst:x:%d:0::/:\n", firstID), "user first"},
		{"passwd", fmt.Sprintf("last:x:%d:0::/:\n", last), "user last"},
		{"group", fmt.Sprintf("root:x:0:\nlast:x:%d:\n", last), "group last"},
		{"subuid", fmt.Sprintf("below:%d:100\nabove:%d:100\n", firstID-100, last+1), ""},
		{"subuid", fmt.Sprintf("below:%d:101\n", firstID-100), "a range of below in /etc/subuid"},
		{"subgid", fmt.Sprintf("above:%d:65536\n", last), "a range of above in /etc/subgid"},
		{"subgid", fmt.Sprintf("around:%d:%d\n", firstID-1, idCount+2), "a range of around in /etc/subgid"},
	} {
		etc := t.TempDir()
		write(t, filepath.Join(etc, c.file), c.text)
		if got := takenID(etc); got != c.want {
			t.Errorf("%s with %q: got %q, want %q", c.file, c.text, got, c.want)
		}
		_, err := hostIDs(etc, func(string) (user.IdentityMapping, error) { return user.IdentityMapping{}, errors.New("none") })
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("IDs for containers, %s with %q: got %v, want an error with %q if that is not empty", c.file, c.text, err, c.want)
		}
	}
}
