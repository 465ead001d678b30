package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const busybox = "/bin/busybox"

// applets are the commands of the test image.
var applets = []string{
	"sh", "true", "false", "cat", "ls", "echo", "env", "id", "pwd", "rm", "mkdir", "touch", "stat", "hostname", "kill", "sleep",
	"mount", "umount", "unshare", "mknod", "ip", "head", "grep", "tty", "stty", "ln", "chmod", "find", "readlink", "wc", "yes", "nc", "mv", "printf", "test", "seq", "tr", "date", "dd", "su",
}

// image makes a root filesystem with busybox, as one layer directory.
func image(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatalf("the tests of the sandbox need a static busybox (Debian: apt-get install busybox-static; make test does it): %v", err)
	}
	for _, d := range []string{"bin", "etc", "tmp", "home/user"} {
		mkdir(t, filepath.Join(dir, d))
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n")
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nusers:x:1001:\nstaff:x:50:user\nwheel:x:10:user\n")
	past := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, d := range []string{"etc", "bin", "tmp", "."} {
		if err := os.Chtimes(filepath.Join(dir, d), past, past); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mkdir(t testing.TB, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// lab is a runner and an image to run things in.
type lab struct {
	t      testing.TB
	runner Runner
	linked bool // the runner is this process
	// unguarded: no cgroup guards devices, as on a machine with cgroups of version 2 alone.
	unguarded bool
	userns    bool // the specs have a user namespace
	state     string
	image     string
	dir       string
}

// newLab prepares a test; the state directory must be empty at its end.
func newLab(t testing.TB, newRunner func(testing.TB, string) Runner) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	l := &lab{t: t, state: filepath.Join(t.TempDir(), "state"), image: image(t), dir: t.TempDir()}
	l.runner = newRunner(t, l.state)
	before := hostState(t)
	t.Cleanup(func() {
		if left, err := os.ReadDir(l.state); err != nil || len(left) > 0 {
			t.Errorf("state directory after all runs: got %v, %v; want it empty", left, err)
		}
		if after := hostState(t); after != before {
			t.Errorf("mounts and cgroups before:\n%s\nafter:\n%s", before, after)
		}
		for _, dir := range cgroupsNamed(fmt.Sprintf("slipway-test-%d-", os.Getpid())) { // of a test that failed
			if err := removeCgroup(dir); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// hostState is what a run might leave on the host: mounts and cgroups.
func hostState(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mine := fmt.Sprintf("slipway-test-%d-", os.Getpid()) // another process may run the same tests
	var b strings.Builder
	for line := range strings.Lines(string(mounts)) {
		// Other tests may be mounting things at the same time.
		for _, ours := range []string{"slipway-test-", "TestLibcontainer", "TestRuntimeBinary", "TestUnguarded", "TestUserNS", "TestOlderKernel", "TestLateCwd", "TestBesideRunc", "BenchmarkRun"} {
			if strings.Contains(line, ours) {
				b.WriteString(line)
				break
			}
		}
	}
	for _, dir := range cgroupsNamed(mine) {
		fmt.Fprintln(&b, dir)
	}
	return b.String()
}

// cgroupsNamed are the cgroups with text in their names, those above others last.
func cgroupsNamed(text string) (dirs []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, text) { // and none of another test's
			dirs = append(dirs, path)
		}
		return nil
	})
	slices.Reverse(dirs)
	return dirs
}

var ids atomic.Int64

// spec is a shell script in the image, with a fresh upper directory.
func (l *lab) spec(script string) *Spec {
	return l.command("sh", "-c", script)
}

func (l *lab) command(args ...string) *Spec {
	l.t.Helper()
	id := fmt.Sprintf("slipway-test-%d-%d", os.Getpid(), ids.Add(1))
	upper, work := filepath.Join(l.dir, id, "upper"), filepath.Join(l.dir, id, "work")
	mkdir(l.t, upper, work)
	return &Spec{ID: id, Root: Root{Lower: []string{l.image}, Upper: upper, Work: work}, Args: args, Network: NetworkHost, UserNS: l.userns}
}

// run runs a spec that must exit with 0 and returns its output, trimmed.
func (l *lab) run(spec *Spec) string {
	l.t.Helper()
	out, err := l.try(spec)
	if err != nil {
		l.t.Fatalf("running %q: %v; output: %s", spec.Args, err, out)
	}
	return out
}

func (l *lab) try(spec *Spec) (string, error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out lockedBuffer
	err := l.runner.Run(ctx, spec, IO{Stdout: &out, Stderr: &out})
	return strings.TrimSpace(out.String()), err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tree lists a directory: one line for each entry below it.
func tree(t testing.TB, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		lines = append(lines, d.Type().String()[:1]+" "+rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestLibcontainer(t *testing.T) {
	runnerSuite(t, func(t testing.TB, state string) Runner {
		r, err := New(Options{StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}, true)
}

// TestUnguarded has what depends on the guard of devices run without it.
func TestUnguarded(t *testing.T) {
	for name, test := range map[string]func(*lab){
		"Devices": testDevices, "OwnDevices": testOwnDevices, "MountedDev": testMountedDev, "MaskedPaths": testMaskedPaths, "Terminal": testTerminal, "Tmpfs": testTmpfs, "UserNSOwners": testUserNSOwners,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(t testing.TB, state string) Runner {
				r, err := New(Options{StateDir: state})
				if err != nil {
					t.Fatal(err)
				}
				r.(*runner).guard = func(*Spec) (func() error, bool) { return func() error { return nil }, false }
				return r
			})
			l.linked, l.unguarded = true, true
			test(l)
		})
	}
}

// TestOlderKernel has what depends on how mounts get their attributes run without mount_setattr(2).
func TestOlderKernel(t *testing.T) {
	old := recursiveAttributes
	recursiveAttributes = func() bool { return false }
	t.Cleanup(func() { recursiveAttributes = old })
	for name, test := range map[string]func(*lab){"Bind": testBind, "CgroupView": testCgroupView, "ReadOnlyRoot": testReadOnlyRoot, "Forbidden": testForbidden, "ProcMounts": testProcMounts} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, func(t testing.TB, state string) Runner {
				r, err := New(Options{StateDir: state})
				if err != nil {
					t.Fatal(err)
				}
				return r
			})
			l.linked = true
			test(l)
		})
	}
}

func TestRuntimeBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("long: the whole suite with runc")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("no runc on this machine")
	}
	runnerSuite(t, func(t testing.TB, state string) Runner {
		r, err := New(Options{StateDir: state, RuntimeBinary: "runc"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}, false)
}

// runnerSuite is what every runner must do. A linked runner reports signals as such.
func runnerSuite(t *testing.T, newRunner func(testing.TB, string) Runner, linked bool) {
	for name, test := range map[string]func(*lab){
		"ExitCodes": testExitCodes, "CommandErrors": testCommandErrors, "OwnProgram": testOwnProgram, "Signals": testSignals, "IgnoredSignals": testIgnoredSignals, "Output": testOutput,
		"Stdin": testStdin, "Terminal": testTerminal, "Environment": testEnvironment, "Users": testUsers, "OddUserFiles": testOddUserFiles,
		"Cancel": testCancel, "Leftovers": testLeftovers, "Parallel": testParallel, "KilledParent": testKilledParent, "KilledWatchdog": testKilledWatchdog, "Ulimits": testUlimits,
		"Cwd": testCwd, "CwdLinks": testCwdLinks, "Upper": testUpper, "HiddenStubs": testHiddenStubs, "SwappedMountPoint": testSwappedMountPoint, "OddRoots": testOddRoots, "PlainRoots": testPlainRoots, "RacingLinks": testRacingLinks, "NoTrace": testNoTrace, "Scratch": testScratch,
		"ReadOnlyRoot": testReadOnlyRoot, "Bind": testBind, "RootMounts": testRootMounts, "Tmpfs": testTmpfs,
		"NestedMounts": testNestedMounts, "MountErrors": testMountErrors, "ProcMounts": testProcMounts, "Keyring": testKeyring, "ManyLayers": testManyLayers,
		"CancelAnyTime": testCancelAnyTime, "Network": testNetwork, "Bridge": testBridge, "SharedNetwork": testSharedNetwork, "Files": testFiles, "ContainerFiles": testContainerFiles, "Capabilities": testCapabilities, "Forbidden": testForbidden, "Apart": testApart, "Covered": testCovered, "Elsewhere": testElsewhere, "OneUser": testOneUser, "Again": testAgain, "Unwanted": testUnwanted,
		"UserNSOwners": testUserNSOwners, "UserNSUsers": testUserNSUsers, "UserNSRoot": testUserNSRoot, "UserNSErrors": testUserNSErrors, "UserNSCapabilities": testUserNSCapabilities,
		"File": testFile, "Socket": testSocket, "Final": testFinal,
		"Exec": testExec, "ExecProcess": testExecProcess, "ExecPrivileged": testExecPrivileged, "ExecTerminal": testExecTerminal, "ExecEnds": testExecEnds, "ExecHeldStreams": testExecHeldStreams, "ExecSlow": testExecSlow, "ExecMany": testExecMany,
		"Devices": testDevices, "OwnDevices": testOwnDevices, "MountedDev": testMountedDev, "MaskedPaths": testMaskedPaths, "ProcessorMasks": testProcessorMasks, "Insecure": testInsecure, "InsecureDevices": testInsecureDevices, "ContainerDevices": testContainerDevices, "Unconfined": testUnconfined, "Sysctls": testSysctls, "InsecureCgroups": testInsecureCgroups, "KeepCaps": testKeepCaps, "Cgroup": testCgroup, "CgroupView": testCgroupView, "Limits": testLimits, "AppArmor": testAppArmor, "MaxProcesses": testMaxProcesses, "MemoryLimit": testMemoryLimit, "BusyCgroup": testBusyCgroup, "LimitErrors": testLimitErrors,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, newRunner)
			l.linked = linked
			test(l)
		})
	}
}

// BenchmarkRunTrue is the fixed cost of a run, beside that of `runc run` with runc's own default
// configuration (`runc spec`), which has no seccomp filter and fewer mounts.
func BenchmarkRunTrue(b *testing.B) {
	for _, runtime := range []string{"", "runc"} {
		if _, err := exec.LookPath(runtime); runtime != "" && err != nil {
			continue
		}
		b.Run("runtime="+runtime, func(b *testing.B) {
			l := newLab(b, func(t testing.TB, state string) Runner {
				r, err := New(Options{StateDir: state, RuntimeBinary: runtime})
				if err != nil {
					t.Fatal(err)
				}
				return r
			})
			for b.Loop() {
				l.run(l.command("true"))
			}
		})
	}
	b.Run("plain runc run", benchmarkRunc)
}

func benchmarkRunc(b *testing.B) {
	dir := b.TempDir()
	if err := os.Rename(image(b), filepath.Join(dir, "rootfs")); err != nil {
		b.Fatal(err)
	}
	spec := exec.Command("runc", "spec", "--bundle", dir)
	if out, err := spec.CombinedOutput(); err != nil {
		b.Skipf("no runc: %v: %s", err, out)
	}
	config := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		b.Fatal(err)
	}
	changed := strings.NewReplacer(`"terminal": true`, `"terminal": false`, `"sh"`, `"true"`).Replace(string(text))
	write(b, config, changed)
	for b.Loop() {
		id := fmt.Sprintf("slipway-test-%d-%d", os.Getpid(), ids.Add(1))
		if out, err := exec.Command("runc", "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, id).CombinedOutput(); err != nil {
			b.Fatalf("runc run: %v: %s", err, out)
		}
	}
}
