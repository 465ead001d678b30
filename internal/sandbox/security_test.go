package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

func testNetwork(l *lab) {
	spec := l.spec("ip -o addr; ls /sys/class/net; readlink /proc/self/ns/net")
	spec.Network = NetworkNone
	out := l.run(spec)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		l.t.Fatal(err)
	}
	if strings.Contains(out, own) || !strings.Contains(out, "127.0.0.1/8") || !strings.Contains(out, "LOOPBACK,UP") && !strings.Contains(out, "lo") {
		l.t.Errorf("network none: got %q", out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "inet") && !strings.Contains(line, " lo ") {
			l.t.Errorf("network none has another interface: %s", line)
		}
	}
	spec = l.spec("ip link show lo | head -1")
	spec.Network = NetworkNone
	if got := l.run(spec); !strings.Contains(got, "UP") {
		l.t.Errorf("network none: lo is not up: %q", got)
	}
	if got := l.run(l.command("readlink", "/proc/self/ns/net")); got != own {
		l.t.Errorf("network host: got %q, want the host's %q", got, own)
	}
}

func testFiles(l *lab) {
	spec := l.spec("cat /etc/hosts; echo --; cat /etc/hostname; hostname; touch /etc/hosts 2>/dev/null || echo ro")
	spec.Hostname, spec.Container, spec.User = "box", true, "user"
	spec.ExtraHosts = []HostEntry{{"db", "10.0.0.7"}}
	want := "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n--\nbox\nbox\nro"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("generated files", spec)
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		l.t.Skip("this machine has no /etc/resolv.conf")
	}
	if got := l.run(l.command("cat", "/etc/resolv.conf")); got != strings.TrimSpace(string(host)) {
		l.t.Errorf("resolv.conf: got %q, want the host's %q", got, host)
	}
}

// testContainerFiles: a container may write to what is generated for it, unless its root is read-only, and on the host's network it has the host's names.
func testContainerFiles(l *lab) {
	old := hostHosts
	l.t.Cleanup(func() { hostHosts = old })
	hostHosts = filepath.Join(l.dir, "hosts")
	const own = "127.0.0.1\tlocalhost\n10.1.2.3\town\n"
	write(l.t, hostHosts, own)
	container := func(script string) *Spec {
		spec := l.spec(script)
		spec.Container, spec.Hostname = true, "box"
		return spec
	}
	spec := container("for f in hosts resolv.conf hostname; do echo more >> /etc/$f && head -n 1 /etc/$f; done; cat /etc/hosts")
	spec.Network, spec.Domainname = NetworkNone, "example.com"
	got := strings.Split(l.run(spec), "\n")
	if want := "127.0.0.1\tlocalhost\n127.0.0.1\tbox.example.com box\n::1\tlocalhost ip6-localhost ip6-loopback\nmore"; !strings.HasSuffix(strings.Join(got, "\n"), want) || len(got) < 7 {
		l.t.Errorf("got %q, want it to end with %q", got, want)
	}
	l.wantUpper("what is generated", spec)
	name, err := os.Hostname()
	if err != nil {
		l.t.Fatal(err)
	}
	spec = container("cat /etc/hosts")
	spec.Hostname = name
	if got := l.run(spec); got != strings.TrimSpace(own) {
		l.t.Errorf("on the host's network: %q, want %q", got, own)
	}
	if got := l.run(container("cat /etc/hosts")); !strings.HasPrefix(got, "127.0.0.1\tlocalhost box\n") {
		l.t.Errorf("on the host's network with a name of its own: %q", got)
	}
	if got := l.run(container("head -c 40000000 /dev/zero > /etc/hosts 2>/dev/null; test $(wc -c < /etc/hosts) -le 16777216 && echo full")); got != "full" {
		l.t.Errorf("what it writes has no end: %q", got)
	}
	spec = container("cat /etc/hosts")
	spec.Hostname = name
	spec.ExtraHosts = []HostEntry{{"db", "10.0.0.7"}}
	if got, want := l.run(spec), "127.0.0.1\tlocalhost "+name+"\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb"; got != want {
		l.t.Errorf("with a host: %q, want %q", got, want)
	}
	spec = container("echo more 2>/dev/null >> /etc/hosts || echo ro; cat /proc/sys/kernel/domainname")
	spec.Root.Upper, spec.Root.Work = "", ""
	if got := l.run(spec); !strings.HasPrefix(got, "ro\n") || strings.Contains(got, "example") {
		l.t.Errorf("with a read-only root: %q", got)
	}
}

func TestResolvConf(t *testing.T) {
	dir := t.TempDir()
	oldHost, oldResolved := hostResolvConf, resolvedResolvConf
	t.Cleanup(func() { hostResolvConf, resolvedResolvConf = oldHost, oldResolved })
	hostResolvConf, resolvedResolvConf = filepath.Join(dir, "host"), filepath.Join(dir, "resolved")
	const stub, real = "nameserver 127.0.0.53\noptions edns0\n", "nameserver 9.9.9.9\n"
	write(t, hostResolvConf, stub)
	write(t, resolvedResolvConf, real)
	check := func(what string, servers []string, want map[Network]string) {
		t.Helper()
		r, err := hostResolvers()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range r.servers {
			got = append(got, s.String())
		}
		if !slices.Equal(got, servers) {
			t.Errorf("%s: got servers %q, want %q", what, got, servers)
		}
		for network, want := range want {
			if got, err := r.conf(network); err != nil || got != want {
				t.Errorf("%s, network %s: got %q, %v; want %q", what, network, got, err, want)
			}
		}
	}
	const own = "options edns0\nnameserver 192.0.0.3\n"
	check("systemd-resolved", []string{"127.0.0.53:53"}, map[Network]string{NetworkHost: stub, NetworkNone: real, NetworkBridge: own})
	before, err := hostResolvers()
	if err != nil {
		t.Fatal(err)
	}
	write(t, hostResolvConf, real)
	if got := fmt.Sprint(before.now()); got != "[9.9.9.9:53]" {
		t.Errorf("after the file changed: got servers %s, want the new one", got)
	}
	write(t, hostResolvConf, stub+real)
	check("another server", []string{"127.0.0.53:53", "9.9.9.9:53"},
		map[Network]string{NetworkHost: stub + real, NetworkNone: stub + real, NetworkBridge: own + "nameserver 192.0.0.4\n"})
	const many = "search example.com\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver ::1 # comment\nnameserver 192.0.2.9\nnameserver 192.0.2.10"
	write(t, hostResolvConf, many)
	check("more than there may be", []string{"[fe80::1%eth0]:53", "[::1]:53", "192.0.2.9:53", "192.0.2.10:53"}, map[Network]string{
		NetworkHost: many, NetworkBridge: "search example.com\nnameserver 192.0.0.3\nnameserver 192.0.0.4\nnameserver 192.0.0.5\n"})
	if err := os.Remove(hostResolvConf); err != nil {
		t.Fatal(err)
	}
	check("no file", []string{"127.0.0.1:53"}, map[Network]string{NetworkHost: "", NetworkBridge: "nameserver 192.0.0.3\n"})
}

// status gives the fields of /proc/self/status of a process.
func status(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// dockerCaps is Docker's default set as /proc shows it.
const dockerCaps = 0xa80425fb

func ownCaps(t testing.TB) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var caps uint64
	if _, err := fmt.Sscanf(status(string(text))["CapPrm"], "%x", &caps); err != nil {
		t.Fatal(err)
	}
	return caps
}

func testCapabilities(l *lab) {
	want := fmt.Sprintf("%016x", dockerCaps&ownCaps(l.t))
	none := fmt.Sprintf("%016x", 0)
	for user, c := range map[string][4]string{"": {want, want, none, want}, "user": {none, none, none, want}} {
		spec := l.command("cat", "/proc/self/status")
		spec.User = user
		got := status(l.run(spec))
		for i, name := range []string{"CapEff", "CapPrm", "CapInh", "CapBnd"} {
			if got[name] != c[i] {
				l.t.Errorf("user %q: %s: got %s, want %s", user, name, got[name], c[i])
			}
		}
		if got["Seccomp"] != "2" || got["NoNewPrivs"] != "0" {
			l.t.Errorf("user %q: got Seccomp %s and NoNewPrivs %s, want 2 and 0", user, got["Seccomp"], got["NoNewPrivs"])
		}
	}
}

func testForbidden(l *lab) {
	for _, command := range []string{
		"mount -t tmpfs none /tmp", "umount /proc", "unshare -m true", "unshare -U true", "unshare -n true",
		"hostname other", "date -s 2001-01-01 2>&1 | grep -v permitted | grep set", ": >> /proc/sys/kernel/panic", "mount -o remount,rw /sys",
	} {
		var exit *ExitError
		if out, err := l.try(l.spec(command)); !errors.As(err, &exit) {
			l.t.Errorf("%s: got %q, %v; want it to fail", command, out, err)
		}
	}
	// keyctl and the like: seccomp answers before the kernel looks at the arguments.
	spec := l.spec("unshare -U true 2>&1; true")
	spec.User = "user"
	if got := l.run(spec); !strings.Contains(got, "not permitted") {
		l.t.Errorf("unshare -U as a user: got %q, want it not permitted", got)
	}
	if got := l.run(l.spec("ls /proc | grep -c '^[0-9]*$'")); !boundProc() && got != "3" && got != "2" && got != "4" {
		l.t.Errorf("visible processes: got %s, want those of the container only", got)
	}
}

// testDevices: nodes may be made, as in Docker, but only harmless ones work, and those only where a
// cgroup guards the others.
func testDevices(l *lab) {
	if nested() {
		nestedDevices(l)
		return
	}
	if err := unix.Mknod(filepath.Join(l.image, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
		l.t.Fatal(err)
	}
	const script = `set -e
mknod /tmp/zero c 1 5
mknod /dev/zero2 c 1 5
mknod /dev/shm/zero c 1 5
mknod /mnt/zero c 1 5
mknod /tmp/kmsg c 1 11
mknod /dev/kmsg c 1 11
mknod /mnt/kmsg c 1 11
mknod /tmp/loop b 7 0
for f in /tmp/* /dev/zero2 /dev/shm/zero /dev/kmsg /mnt/* /kmsg; do head -c 1 $f > /dev/null 2>&1 && echo opened $f; done
head -c 2 /dev/zero | wc -c
head -c 2 /dev/urandom | wc -c
echo x > /dev/null
echo x > /dev/full 2>/dev/null || echo full
ls /dev`
	opened := "opened /tmp/zero\nopened /dev/zero2\nopened /mnt/zero\n"
	if l.unguarded || devicesCgroup() == "" {
		opened = ""
	}
	for name, r := range map[string]Resources{"": {}, "limits": {Pids: 50}} {
		spec := l.spec(script)
		spec.Mounts = []Mount{{Dest: "/mnt", Tmpfs: &Tmpfs{}}}
		spec.Resources = r
		want := opened + "2\n2\nfull\nfd\nfull\nkmsg\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\nzero2"
		if got := strings.Replace(l.run(spec), "core\n", "", 1); got != want {
			l.t.Errorf("%s: got %q, want %q", name, got, want)
		}
		l.wantUpper("device", spec, "d tmp", "D tmp/kmsg", "D tmp/loop", "D tmp/zero")
	}
	if left, err := filepath.Glob(filepath.Join(devicesCgroup(), guardPrefix+fmt.Sprintf("slipway-test-%d-*", os.Getpid()))); err != nil || len(left) > 0 {
		l.t.Errorf("cgroups of devices after the runs: %v, %v", left, err)
	}
}

// hostNodes are the host's nodes of the devices that a container has, as they are now. What a test does to
// them is undone.
func hostNodes(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"full", "null", "random", "tty", "urandom", "zero"} {
		path := filepath.Join("/dev", name)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %o %d:%d %v\n", path, st.Mode, st.Uid, st.Gid, st.Mtim)
		t.Cleanup(func() {
			var now unix.Stat_t
			if err := unix.Stat(path, &now); err != nil || now.Mode == st.Mode && now.Uid == st.Uid && now.Gid == st.Gid && now.Mtim == st.Mtim {
				return
			}
			err := errors.Join(unix.Chown(path, int(st.Uid), int(st.Gid)), unix.Chmod(path, st.Mode&0o7777),
				unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, 0))
			if err != nil {
				t.Error(err)
			}
		})
	}
	return b.String()
}

// testOwnDevices: nodes of devices, and what masks files, are the container's own.
func testOwnDevices(l *lab) {
	before := hostNodes(l.t)
	const script = `for f in full null random tty urandom zero; do stat -c '%n %a %u:%g %t:%T' /dev/$f; done
chmod 0640 /dev/full /dev/random; chown 5:6 /dev/full /dev/random; touch -d '2001-01-01 00:00:00' /dev/full
(chmod 0640 /proc/keys; chown 5:6 /proc/keys; touch -d '2001-01-01 00:00:00' /proc/keys) 2>/dev/null
stat -c '%a %u:%g' /dev/full`
	want := "/dev/full 666 0:0 1:7\n/dev/null 666 0:0 1:3\n/dev/random 666 0:0 1:8\n/dev/tty 666 0:0 5:0\n/dev/urandom 666 0:0 1:9\n/dev/zero 666 0:0 1:5\n640 5:6"
	for _, insecure := range []bool{false, true} {
		spec := l.spec(script)
		spec.Insecure, spec.AppArmor = insecure, AppArmorUnconfined
		got := l.run(spec)
		if nested() { // where they are the host's, and nobody's to change
			if !strings.HasSuffix(got, "\n666 65534:65534") {
				l.t.Errorf("the nodes of a user namespace: got %q", got)
			}
		} else if got != want && !insecure { // it has no masks
			l.t.Errorf("got %q, want %q", got, want)
		}
		if after := hostNodes(l.t); after != before {
			l.t.Errorf("insecure %v: the host's nodes were:\n%sare:\n%s", insecure, before, after)
		}
		l.wantUpper("devices", spec)
	}
}

// testMountedDev: a filesystem of the user's at /dev has the nodes, a directory of the host is left alone.
func testMountedDev(l *lab) {
	spec := l.spec("ls /dev; echo x > /dev/null && head -c 1 /dev/zero | wc -c; : < /proc/keys && echo masked")
	spec.Mounts = []Mount{{Dest: "/dev/", Tmpfs: &Tmpfs{}}}
	if got, want := l.run(spec), "fd\nfull\nnull\nptmx\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n1\nmasked"; strings.Replace(got, "core\n", "", 1) != want {
		l.t.Errorf("a tmpfs: got %q, want %q", got, want)
	}
	dir := l.t.TempDir()
	write(l.t, filepath.Join(dir, "ptmx"), "")
	kind := "D"
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); nested() {
		kind = "-"
		write(l.t, filepath.Join(dir, "null"), "")
	} else if err != nil {
		l.t.Fatal(err)
	}
	spec = l.spec("ls /dev")
	spec.Mounts = []Mount{{Dest: "/dev", Bind: dir}}
	if got, want := l.run(spec), "null\nptmx"; got != want {
		l.t.Errorf("a directory of the host: got %q, want %q", got, want)
	}
	spec = l.spec("readlink /proc/self/fd/0")
	spec.Mounts = []Mount{{Dest: "/dev", Bind: dir}}
	if got := l.run(spec); l.linked && strings.Contains(got, filepath.Base(l.state)) {
		l.t.Errorf("standard input tells a path of the host: %q", got)
	}
	if got, want := tree(l.t, dir), []string{kind + " null", "- ptmx"}; !slices.Equal(got, want) {
		l.t.Errorf("the host's directory: got %q, want %q", got, want)
	}
	// Nor are standard mounts made below another one of the user's.
	dir = l.t.TempDir()
	for _, network := range []Network{NetworkHost, NetworkNone} {
		spec = l.spec("ls /sys /etc; test -d /proc/self")
		spec.Network = network
		spec.Mounts = []Mount{{Dest: "/sys", Bind: dir}, {Dest: "/etc", Bind: dir}}
		if got, want := l.run(spec), "/etc:\n\n/sys:"; got != want {
			l.t.Errorf("empty directories of the host, network %s: got %q, want %q", network, got, want)
		}
		if got := tree(l.t, dir); len(got) > 0 {
			l.t.Errorf("the host's empty directory: got %q", got)
		}
	}
}

func TestGuardDevices(t *testing.T) {
	if os.Geteuid() != 0 || devicesCgroup() == "" {
		t.Skip("no cgroups (version 1) for devices")
	}
	id := fmt.Sprintf("slipway-test-%d-guard", os.Getpid())
	// The main thread's cgroup is the process's own.
	err := inMountNamespace(func() error {
		g := &guard{id: id}
		if err := g.guardDevices(); err != nil {
			return err
		}
		list, err := os.ReadFile(filepath.Join(g.joined[0].dir, "devices.list"))
		if err != nil {
			return err
		}
		want := "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm\nc 5:0 rwm\nc 5:1 rwm\nc 5:2 rwm\nc 136:* rwm\n"
		if string(list) != want {
			t.Errorf("rules: got %q, want %q", list, want)
		}
		thread, err := os.ReadFile("/proc/thread-self/cgroup")
		if err != nil {
			return err
		}
		process, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		if !strings.Contains(string(thread), guardPrefix+id) || strings.Contains(string(process), id) {
			t.Errorf("cgroups of the thread %q, of the process %q", thread, process)
		}
		// Somebody who sweeps does not take away what is in use.
		if err := unix.Rmdir(g.joined[0].dir); !errors.Is(err, unix.EBUSY) {
			t.Errorf("removing a guard in use: %v", err)
		}
		return g.leave()
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(devicesCgroup(), guardPrefix+id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the guard is left: %v", err)
	}
}

func testMaskedPaths(l *lab) {
	spec := l.spec(`for f in /proc/kcore /proc/keys /proc/timer_list; do test -e $f && wc -c < $f; done
ls /sys/firmware /proc/scsi /proc/acpi 2>/dev/null | grep -v :
for f in /proc/sys/kernel/panic /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do
test -e $f && (: >> $f) 2>/dev/null && echo writable $f; done
mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x 2>&1 | grep -v -e Read-only -e 'No such'; true`)
	spec.AppArmor = AppArmorUnconfined // which refuses even to look
	out := l.run(spec)
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "0" && line != "" {
			l.t.Errorf("masked and read-only paths: got %q", line)
		}
	}
	if !strings.HasPrefix(out, "0\n") {
		l.t.Errorf("no masked file was seen at all: %q", out)
	}
}

func testInsecure(l *lab) {
	node := "mknod /bin/zero c 1 5 && head -c 1 /bin/zero > /dev/null"
	switch {
	case oneID(): // where owners are recorded nodes are too, and have nothing in them
		node = "mknod /bin/zero c 1 5 && test -c /bin/zero && test $(head -c 1 /bin/zero | wc -c) -eq 0"
	case nested():
		node = "{ mknod /bin/zero c 1 5 2>/dev/null; ! test -c /bin/zero; }"
	}
	spec := l.spec("cat /proc/self/status; mount -t tmpfs none /tmp && " + node + " && echo Done: yes")
	spec.Insecure = true
	got := status(l.run(spec))
	if want := fmt.Sprintf("%016x", ownCaps(l.t)); got["CapEff"] != want {
		l.t.Errorf("CapEff: got %s, want all of ours, %s", got["CapEff"], want)
	}
	seccomp := ownSeccomp(l.t)
	if oneID() {
		seccomp = "2" // which sees what is said of owners, and forbids nothing
	}
	if got["Seccomp"] != seccomp || got["Done"] != "yes" {
		l.t.Errorf("got Seccomp %s and %q; want slipway's own and a mount done", got["Seccomp"], got["Done"])
	}
}

// testInsecureDevices: the nodes are BuildKit's, whatever of them the kernel has a driver for.
func testInsecureDevices(l *lab) {
	if nested() {
		return // there are those of the host that it may open
	}
	spec := l.spec("cd /dev; stat -c '%n %F %t:%T %a' kmsg cuse fuse kvm net/tun loop-control loop0 loop7 null; : < null && head -c 1 zero | wc -c; mkdir /dev/shm/x && mount -t tmpfs none /dev/shm/x && grep -c ' /sys sysfs rw' /proc/mounts; grep -c ' /proc/' /proc/mounts; true")
	spec.Insecure = true
	want := "kmsg character special file 1:b 666\ncuse character special file a:cb 666\nfuse character special file a:e5 666\n" +
		"kvm character special file a:e8 666\nnet/tun character special file a:c8 666\nloop-control character special file a:ed 666\n" +
		"loop0 block special file 7:0 666\nloop7 block special file 7:7 666\nnull character special file 1:3 666\n1\n1\n0"
	if got := l.run(spec); got != want {
		l.t.Errorf("got %q, want %q", got, want)
	}
	l.wantUpper("insecure devices", spec)
}

// testContainerDevices: a container has the devices of the host besides, with their owners, but not its terminals, and none in the place of its own.
func testContainerDevices(l *lab) {
	if nested() {
		return // nobody can make any
	}
	old := hostDev
	l.t.Cleanup(func() { hostDev = old })
	hostDev = filepath.Join(l.dir, "dev")
	mkdir(l.t, filepath.Join(hostDev, "closed/deep"), filepath.Join(hostDev, "pts"))
	for name, kind := range map[string]uint32{"own": unix.S_IFCHR, "closed/deep/disk": unix.S_IFBLK, "null": unix.S_IFCHR, "console": unix.S_IFCHR, "pts/7": unix.S_IFCHR, "loop0": unix.S_IFBLK, "file": unix.S_IFREG} {
		if err := unix.Mknod(filepath.Join(hostDev, name), kind|0o600, int(unix.Mkdev(1, 5))); err != nil {
			l.t.Skip("nobody may make devices here")
		}
	}
	for _, name := range []string{"own", "closed/deep/disk"} {
		if err := errors.Join(os.Chown(filepath.Join(hostDev, name), 0, 6), os.Chmod(filepath.Join(hostDev, name), 0o660)); err != nil {
			l.t.Fatal(err)
		}
	}
	devices := func(container bool) (string, error) {
		spec := l.spec("cd /dev; stat -c '%n %F %t:%T %a %g' own closed/deep closed/deep/disk null loop0; ls file pts/7 2>/dev/null; head -c 1 own | wc -c")
		spec.Insecure, spec.Container = true, container
		return l.try(spec)
	}
	want := "own character special file 1:5 660 6\nclosed/deep directory 0:0 755 0\nclosed/deep/disk block special file 1:5 660 6\nnull character special file 1:3 666 0\nloop0 block special file 1:5 600 0\n1"
	if got, err := devices(true); err != nil || got != want {
		l.t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, _ := devices(false); got == want {
		l.t.Error("a step has the host's devices")
	}
}

// testUnconfined: one that is to have no seccomp filter has none, and what is hidden is what was asked for.
func testUnconfined(l *lab) {
	if nested() {
		return // what is hidden there is its affair
	}
	spec := l.spec("cat /proc/self/status; echo Masked: $(cat /proc/keys | wc -c) $(mount | grep -c ' on /proc/'); echo Sys: $(grep -c '^proc /proc/sys' /proc/mounts)")
	masked, readonly := []string{"/proc/keys"}, []string{}
	spec.Seccomp, spec.MaskedPaths, spec.ReadonlyPaths = SeccompUnconfined, &masked, &readonly
	got := status(l.run(spec))
	if got["Seccomp"] != ownSeccomp(l.t) || got["NoNewPrivs"] != "0" || got["Masked"] != "0 1" || got["Sys"] != "0" {
		l.t.Errorf("got Seccomp %s, masked %s, read-only %s", got["Seccomp"], got["Masked"], got["Sys"])
	}
	spec = l.spec("cat /proc/self/status")
	spec.NoNewPrivileges = true
	if got := status(l.run(spec)); got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" {
		l.t.Errorf("without new privileges: got %s, and Seccomp %s", got["NoNewPrivs"], got["Seccomp"])
	}
	for _, insecure := range []bool{false, true} {
		spec := l.spec("chmod 0 /bin/sh; stat -c %a /bin/sh; sleep 0 && cat /proc/self/status | grep ^Seccomp:")
		spec.Insecure, spec.Seccomp = insecure, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}]}`
		if out := l.run(spec); !strings.Contains(out, "not permitted") || !strings.HasSuffix(out, "777\nSeccomp:\t2") {
			l.t.Errorf("with a profile of its own, insecure %t: %q", insecure, out)
		}
		spec = l.spec("true")
		spec.Seccomp = "{"
		if err := l.runner.Run(l.t.Context(), spec, IO{}); err == nil || !strings.Contains(err.Error(), "reading the seccomp profile") {
			l.t.Errorf("what is no profile: %v", err)
		}
	}
	// Nothing but the program is held by a profile where that needs no capability to be set.
	spec = l.spec("grep ^NoNewPrivs: /proc/self/status")
	spec.User, spec.NoNewPrivileges, spec.Seccomp = "user", true, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["capset", "setresuid", "prctl"], "action": "SCMP_ACT_ERRNO"}]}`
	if got := l.run(spec); got != "NoNewPrivs:\t1" {
		l.t.Errorf("a profile that forbids what is done before: %q", got)
	}
	for _, bad := range []string{"/etc", "/proc", "/proc/../etc", "/sys/", "proc/x"} {
		spec = l.spec("true")
		spec.MaskedPaths = &[]string{bad}
		if err := l.runner.Run(l.t.Context(), spec, IO{}); err == nil || !strings.Contains(err.Error(), "want one below /proc or /sys") {
			l.t.Errorf("masking %s: %v", bad, err)
		}
	}
}

// testSysctls: settings of its network and its IPC namespace are the process's own.
func testSysctls(l *lab) {
	const path = "/proc/sys/net/ipv4/ip_default_ttl"
	before, err := os.ReadFile(path)
	if err != nil {
		l.t.Skip("no network of this kernel's has settings")
	}
	spec := l.spec("cat " + path)
	spec.Network, spec.Sysctls = NetworkNone, map[string]string{"net.ipv4.ip_default_ttl": "33"}
	if got := l.run(spec); got != "33" {
		l.t.Errorf("got %q", got)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		l.t.Errorf("the machine has %s, %v", after, err)
	}
	spec = l.spec("cat /proc/sys/kernel/shmmni")
	if nested() {
		return // before Linux 5.19 they belong to the machine's root
	}
	spec.Sysctls = map[string]string{"kernel.shmmni": "77"}
	switch got, err := l.try(spec); {
	case l.userns:
		if err == nil || !strings.Contains(err.Error(), "cannot be set in a user namespace") {
			l.t.Errorf("in a user namespace: %q, %v", got, err)
		}
	case err != nil || got != "77":
		l.t.Errorf("got %q, %v", got, err)
	}
	spec = l.spec("true")
	spec.Network, spec.Sysctls = NetworkNone, map[string]string{"net.nosuch": "1"}
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "setting the sysctl net.nosuch") {
		l.t.Errorf("one that is not there: %v", err)
	}
}

func TestCheckSysctls(t *testing.T) {
	many := map[string]string{}
	for i := range maxSysctls + 1 {
		many[fmt.Sprint("net.a", i)] = "1"
	}
	for _, tc := range []struct {
		all     map[string]string
		network Network
		userNS  bool
		want    string
	}{
		{map[string]string{"net.core.somaxconn": "1", "kernel.shmmni": "1", "fs.mqueue.msg_max": "1"}, NetworkNone, false, ""},
		{map[string]string{"net.core.somaxconn": "1"}, NetworkBridge, true, ""},
		{map[string]string{"net.core.somaxconn": "1"}, NetworkHost, false, "host's network"},
		{map[string]string{"kernel.shmmni": "1"}, NetworkNone, true, "user namespace"},
		{map[string]string{"kernel.panic": "1"}, NetworkNone, false, "not in a namespace"},
		{map[string]string{"net..core.somaxconn": "1"}, NetworkNone, false, "want a name"},
		{map[string]string{"net.": "1"}, NetworkNone, false, "want a name"},
		{map[string]string{"fs.mqueue.": "1"}, NetworkNone, false, "want a name"},
		{map[string]string{"net/core/somaxconn": "1"}, NetworkNone, false, "want a name"},
		{map[string]string{"net.core.somaxconn": strings.Repeat("1", 4096)}, NetworkNone, false, "more than 4095 bytes"},
		{map[string]string{"net.core.somaxconn": "1\x00"}, NetworkNone, false, "NUL"},
		{many, NetworkNone, false, "more than 100"},
	} {
		if err := CheckSysctls(tc.all, tc.network, tc.userNS); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%d of them as %q: %v, want %q", len(tc.all), slices.Sorted(maps.Keys(tc.all))[0], err, tc.want)
		}
	}
}

func TestCheckSeccomp(t *testing.T) {
	rules := func(rules string) string { return `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + rules + `]}` }
	var large strings.Builder
	for i := range 4090 { // alternatives
		fmt.Fprintf(&large, `,{"value":%d,"op":"SCMP_CMP_EQ"}`, i*7919)
	}
	for profile, want := range map[string]string{
		SeccompUnconfined: "", "{}": "", rules(`{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4094}`): "",
		"null,":                        "reading the seccomp profile",
		rules("null"):                  "a rule is null",
		`{"syscalls": [{}]}`:           `unknown action ""`,
		`{"defaultAction": "NOTHING"}`: `unknown action "NOTHING"`,
		rules(`{"names": ["fsync"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}`):                                                                          "",
		rules(`{"names": ["fsync"], "action": "SCMP_ACT_ALLOW", "errnoRet": 5000}`):                                                                       "",
		rules(`{"names": ["a"` + strings.Repeat(`,"a"`, 4000) + `], "action": "SCMP_ACT_ERRNO", "args": [{"op": "SCMP_CMP_EQ"}, {"op": "SCMP_CMP_EQ"}]}`): "more than 4096 conditions",
		rules(`{"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"}`):                                                                                        "unknown action",
		rules(`{"names": ["chmod"], "action": "NOTHING", "includes": {"caps": ["CAP_SYS_ADMIN"]}}`):                                                       "unknown action",
		rules(`{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095}`):                                                                       "the error 4095",
		rules(`{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}`):                                            "argument 6",
		rules(`{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "LIKE"}]}`):                                                   `operator "LIKE"`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}`:                                                                       "the flag SECCOMP_FILTER_FLAG_LOG",
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}`:                                                                                   "listenerPath",
		rules(strings.Repeat(" ", maxSeccomp)):                                                                                                            "too large",
	} {
		if err := CheckSeccomp(profile); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", profile, err, want)
		}
	}
	if !seccompCompiled {
		return
	}
	if err := CheckSeccomp(rules(`{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[` + large.String()[1:] + `]}`)); err == nil || !strings.Contains(err.Error(), "too large: its filter") {
		t.Errorf("one with too many rules: %v", err)
	}
	if err := CheckSeccomp(`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NONE"]}`); err == nil || !strings.Contains(err.Error(), "architecture SCMP_ARCH_NONE") {
		t.Errorf("an unknown architecture: %v", err)
	}
}

// testInsecureCgroups: an insecure process may make cgroups, below its own, and they end with it.
func testInsecureCgroups(l *lab) {
	if !canMakeCgroups() {
		return // it has slipway's
	}
	name := fmt.Sprintf("slipway-test-%d-left-%d", os.Getpid(), ids.Add(1))
	spec := l.spec("d=/sys/fs/cgroup; test -d $d/memory && d=$d/memory; mkdir $d/" + name + " && echo made; find $d -name 'slipway-test-" + fmt.Sprint(os.Getpid()) + "-*' | grep -v " + name + "; true")
	spec.Insecure = true
	if got := l.run(spec); got != "made" {
		l.t.Errorf("making a cgroup, and others that are seen: got %q, want none", got)
	}
	if left := hostState(l.t); strings.Contains(left, name) {
		l.t.Errorf("on the host is left: %s", left)
	}
}

func testKeepCaps(l *lab) {
	all := fmt.Sprintf("%016x", ownCaps(l.t))
	for keep, want := range map[bool]string{true: all, false: fmt.Sprintf("%016x", 0)} {
		spec := l.command("cat", "/proc/self/status")
		spec.User, spec.Insecure, spec.KeepCaps = "user", true, keep
		if got := status(l.run(spec)); got["CapEff"] != want || got["CapAmb"] != want {
			l.t.Errorf("user, keep %v: got CapEff %s and CapAmb %s, want %s", keep, got["CapEff"], got["CapAmb"], want)
		}
	}
}

// testCgroupView: a process sees its cgroups as the top ones.
func testCgroupView(l *lab) {
	if !l.linked && !cgroupNamespaces() {
		return // the runtime's cgroups are not those that are shown
	}
	spec := l.command("cat", "/proc/self/cgroup")
	spec.MaxProcesses = 100
	for line := range strings.Lines(l.run(spec)) {
		if _, path, _ := strings.Cut(strings.TrimSpace(line), ":/"); path != "" {
			l.t.Errorf("a name of the host's: %s", line)
		}
	}
	spec = l.spec("grep -E ' - cgroup2? ' /proc/self/mountinfo")
	spec.MaxProcesses = 100
	for line := range strings.Lines(l.run(spec)) {
		if f := strings.Fields(line); len(f) > 4 && f[3] != "/" && !(nested() && strings.HasPrefix(f[3], "/..")) { // below a bound /sys, and covered
			l.t.Errorf("a mount of the host's: %s", line)
		}
	}
}

// testCgroup runs in a cgroup below one with a memory limit.
func testCgroup(l *lab) {
	own := fmt.Sprintf("/slipway-test-%d-parent", os.Getpid())
	parent, limit := "/sys/fs/cgroup/memory"+own, "memory.limit_in_bytes"
	if cgroups.IsCgroup2UnifiedMode() {
		parent, limit = "/sys/fs/cgroup"+own, "memory.max"
	}
	if err := os.Mkdir(parent, 0o755); err != nil {
		l.t.Skipf("no memory cgroups: %v", err)
	}
	l.t.Cleanup(func() {
		if err := removeCgroups(own); err != nil {
			l.t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(parent, limit), []byte("33554432"), 0o644); err != nil {
		l.t.Skipf("no memory limits: %v", err)
	}
	spec := l.command("cat", "/proc/self/cgroup")
	spec.CgroupPath = own
	if got := l.run(spec); !strings.Contains(got, "memory:"+own+"/"+spec.ID) && !cgroups.IsCgroup2UnifiedMode() {
		l.t.Errorf("cgroups: got %q", got)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + own + "/" + spec.ID); err != nil || len(left) > 0 {
		l.t.Errorf("cgroups after the run: %v, %v", left, err)
	}
	spec = l.command("busybox", "awk", "BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }")
	spec.CgroupPath = own
	var exit *ExitError
	_, err := l.try(spec)
	if !errors.As(err, &exit) || exit.Code != 137 || l.linked && !exit.OOM {
		l.t.Errorf("using too much memory: got %v (%+v)", err, exit)
	}
}

// testKeyring: a process does not have the session keyring of who started slipway, whose keys are found by possession.
func testKeyring(l *lab) {
	spec := l.spec("/tools/tool -test.run '^TestKeyringHelper$'")
	spec.Insecure = true // others may not ask
	spec.Env = []string{"SLIPWAY_TEST_KEYRING=1"}
	program, err := os.ReadFile("/proc/self/exe") // whose own directory may be closed to who is root here
	tool := filepath.Join(l.dir, "tool")
	if err = errors.Join(err, os.WriteFile(tool, program, 0o755)); err != nil {
		l.t.Fatal(err)
	}
	spec.Mounts = []Mount{{Dest: "/tools/tool", Bind: tool}, {Dest: "/lib", Bind: "/lib", ReadOnly: true}, {Dest: "/lib64", Bind: "/lib64", ReadOnly: true}, {Dest: "/usr", Bind: "/usr", ReadOnly: true}}
	own, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		l.t.Skip("no keys on this machine: ", err)
	}
	if got := l.run(spec); !strings.HasPrefix(got, "keyring ") || strings.HasPrefix(got, fmt.Sprintf("keyring %d ", own)) {
		l.t.Errorf("got %q, and our own is %d", got, own)
	}
}

// TestKeyringHelper is the program that testKeyring runs in a container.
func TestKeyringHelper(t *testing.T) {
	if os.Getenv("SLIPWAY_TEST_KEYRING") == "" {
		t.Skip("run by another test only")
	}
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	fmt.Println("keyring", id, err)
}
