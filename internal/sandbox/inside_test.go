package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// testPlainRoots: what hides something of the kernel, and the devices, are where they are to be or the container is not started.
func testPlainRoots(l *lab) {
	for _, name := range []string{"proc", "sys", "dev"} {
		for _, to := range []string{"/elsewhere", "/nowhere", "elsewhere/../elsewhere"} {
			image := filepath.Join(l.t.TempDir(), "odd")
			mkdir(l.t, filepath.Join(image, "elsewhere"))
			if err := os.Symlink(to, filepath.Join(image, name)); err != nil {
				l.t.Fatal(err)
			}
			spec := l.command("true")
			spec.Root.Lower = append(spec.Root.Lower, image)
			out, err := l.try(spec)
			if err == nil || l.linked && !strings.Contains(err.Error(), "/"+name+" is not a directory") {
				l.t.Errorf("/%s is a link to %s: got %q, %v", name, to, out, err)
			}
		}
	}
	// Where the kernel has no openat2(2), too.
	root, err := openRoot(l.t.TempDir())
	if err != nil {
		l.t.Fatal(err)
	}
	defer root.Close()
	if err := os.Symlink("/etc", filepath.Join(root.name, "link")); err != nil {
		l.t.Fatal(err)
	}
	mkdir(l.t, filepath.Join(root.name, "etc"))
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	if dir, err := openOlder(root, "link", how); err == nil {
		l.t.Errorf("a link was followed to %s", dir.name)
	}
	dir, err := openOlder(root, "etc", how)
	if err != nil {
		l.t.Fatal(err)
	}
	dir.Close()
}

// testCwdLinks: the working directory is inside of the container, also where a /proc is mounted whose links lead out.
func testCwdLinks(l *lab) {
	write(l.t, filepath.Join(l.dir, "secret"), "of the host\n")
	outside := fmt.Sprintf("/host/proc/%d/root", os.Getpid())
	for link, to := range map[string]string{"root": outside, "dir": outside + l.dir, "cwd": fmt.Sprintf("/host/proc/%d/cwd", os.Getpid())} {
		if err := os.Symlink(to, filepath.Join(l.image, link)); err != nil {
			l.t.Fatal(err)
		}
		for _, user := range []string{"", "user"} {
			spec := l.spec("cat secret ." + l.dir + "/secret inside_test.go; pwd -P")
			spec.Cwd, spec.User = "/"+link, user
			spec.Mounts = []Mount{{Dest: "/host/proc", Bind: "/proc"}}
			if out, err := l.try(spec); err == nil {
				l.t.Errorf("a working directory at %s was given to the user %q: %s", to, user, out)
			}
		}
	}
	// Its own links are as good as others, but for these.
	if err := os.Symlink("/etc", filepath.Join(l.image, "plain")); err != nil {
		l.t.Fatal(err)
	}
	spec := l.spec("pwd -P")
	spec.Cwd = "/plain"
	if got := l.run(spec); got != "/etc" {
		l.t.Errorf("a link to /etc: got %q", got)
	}
}

// TestLateCwd: where the directory cannot be opened with more rights than the program's, the program's decide.
func TestLateCwd(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EACCES, unix.ENOSYS} {
		t.Run(errno.Error(), func(t *testing.T) {
			l := newLab(t, func(t testing.TB, state string) Runner {
				r, err := New(Options{StateDir: state})
				if err != nil {
					t.Fatal(err)
				}
				code := uint(errno)
				without := &linked{filter: func() ([]byte, error) {
					return compileFilter(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
						Syscalls: []specs.LinuxSyscall{{Names: []string{"openat2"}, Action: specs.ActErrno, ErrnoRet: &code}}})
				}}
				r.(*runner).execute = without.run
				return r
			})
			l.linked = true
			testCwdLinks(l)
			testCwd(l)
		})
	}
}

// testProcessorMasks: what there is of each processor is hidden, too.
func testProcessorMasks(l *lab) {
	of := maskedPaths
	l.t.Cleanup(func() { maskedPaths = of })
	maskedPaths = func() []string { return maskedAlso("/sys/devices/system/cpu/cpu[0-9]*/topology") } // which each machine has
	if n := len(maskedPaths()) - len(maskedAlso("/nowhere")); n == 0 {
		l.t.Fatal("this machine has no processors")
	}
	spec := l.spec("ls /sys/devices/system/cpu/cpu*/topology | grep -v -e : -e '^$'; mkdir /sys/devices/system/cpu/cpu0/topology/x 2>/dev/null && echo writable; true")
	spec.AppArmor = AppArmorUnconfined // which refuses even to look
	if got := l.run(spec); got != "" {
		l.t.Errorf("what is hidden has %q", got)
	}
}

// TestMaskedPaths: they are those of Docker 29.
func TestMaskedPaths(t *testing.T) {
	hot, _ := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	if got := len(maskedPaths()); got != 12+len(hot) {
		t.Errorf("got %d paths, want 12, and %d of processors", got, len(hot))
	}
}

// TestAppArmorByDescriptor: the profile is said to the filesystem that was made as the container's /proc, and to nothing that
// only looks like it.
func TestAppArmorByDescriptor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	const what = "covering /proc"
	in := &inside{}
	proc := in.proc("making a /proc", mountOptions{})
	in.Add(what, unix.SYS_MOUNT, nil, "/", nil, unix.MS_REC|unix.MS_PRIVATE, nil)
	in.Add(what, unix.SYS_MOUNT, "fake", "/proc", "tmpfs", 0, nil)
	for _, dir := range []string{"/proc/self", "/proc/self/attr", "/proc/self/attr/apparmor"} {
		in.Add(what, unix.SYS_MKDIRAT, unix.AT_FDCWD, dir, 0o755)
	}
	for _, file := range []string{"/proc/self/attr/exec", "/proc/self/attr/apparmor/exec"} {
		in.Add(what, unix.SYS_MKNODAT, unix.AT_FDCWD, file, unix.S_IFREG|0o666, 0)
	}
	in.appArmor(proc, "slipway-no-such-profile")
	message, err := in.Message()
	if err != nil {
		t.Fatal(err)
	}
	null, err := openFile("/dev/null", unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	first, err := initproc.Start([3]int{null.fd, null.fd, null.fd}, unix.CLONE_NEWNS|unix.CLONE_NEWPID)
	if err != nil {
		t.Fatal(err)
	}
	err = first.Send(message)
	if err == nil {
		err = first.Executed()
	}
	if _, werr := first.Wait(func() {}); werr != nil {
		t.Error(werr)
	}
	var failed *initproc.Failed
	if !errors.As(err, &failed) || !strings.HasPrefix(in.Call(failed.Call).What, "setting the AppArmor profile") || failed.Errno == unix.ECANCELED {
		t.Errorf("a profile that is not there was said to a file that is no kernel's: %v", err)
	}
}
