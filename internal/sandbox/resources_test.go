package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// limitsScript prints the limits that a container sees on itself, from either version of cgroups.
const limitsScript = `cd /sys/fs/cgroup
first() { for f in "$@"; do [ -e $f ] && exec cat $f; done; echo no $1; }
(first memory.max memory/memory.limit_in_bytes)
(first cpu.max cpu/cpu.cfs_quota_us cpu,cpuacct/cpu.cfs_quota_us) | head -1
(first pids.max pids/pids.max)
grep Cpus_allowed_list /proc/self/status
grep Mems_allowed_list /proc/self/status
echo x > /dev/null && echo devices`

// needCgroups skips what needs cgroups in a user namespace whose root may make none.
func (l *lab) needCgroups() {
	l.t.Helper()
	if nested() && !canMakeCgroups() {
		l.t.Skip("root of this user namespace may make no cgroups")
	}
}

func testLimits(l *lab) {
	l.needCgroups()
	spec := l.spec(limitsScript)
	spec.Resources = Resources{Memory: 64 << 20, CPUQuota: 50000, CPUPeriod: 200000, CPUShares: 512, CpusetCpus: "0", CpusetMems: "0", Pids: 30}
	got := strings.Split(l.run(spec), "\n")
	want := []string{"67108864", "50000", "30", "Cpus_allowed_list:\t0", "Mems_allowed_list:\t0", "devices"}
	if len(got) == len(want) && got[1] == "50000 200000" {
		got[1] = "50000" // version 2
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		l.t.Errorf("limits: got %q, want %q", got, want)
	}
	l.wantUpper("limits", spec)

	spec = l.spec("for i in $(seq 40); do sleep 1 & done; wait")
	spec.Resources.Pids = 10
	if out, err := l.try(spec); err == nil || !strings.Contains(out, "fork") {
		l.t.Errorf("more processes than allowed: got %q, %v", out, err)
	}
}

// testMaxProcesses: the limit that everybody has, with and without others, and one that is asked for.
func testMaxProcesses(l *lab) {
	if ownCgroupOf("pids") == "" && unifiedCgroup() == "" || nested() && !canMakeCgroups() {
		l.t.Skip("no cgroups for processes")
	}
	const many = "for i in $(seq 40); do sleep 60 & done 2>&1; jobs -p | wc -l; kill $(jobs -p)"
	for _, r := range []Resources{{}, {CPUShares: 512}} {
		spec := l.spec(many)
		spec.MaxProcesses, spec.Resources = 10, r
		if out, err := l.try(spec); !strings.Contains(out, "fork") {
			l.t.Errorf("with %+v more processes than allowed: got %q, %v", r, out, err)
		}
	}
	spec := l.spec(many)
	spec.MaxProcesses, spec.Resources.Pids = 10, 100
	if out, err := l.try(spec); err != nil || out != "40" {
		l.t.Errorf("fewer than the limit that was asked for: got %q, %v", out, err)
	}
	// The next one has its own.
	spec = l.spec(many)
	if out, err := l.try(spec); err != nil || out != "40" {
		l.t.Errorf("without a limit: got %q, %v", out, err)
	}
}

func testMemoryLimit(l *lab) {
	l.needCgroups()
	const hungry = `busybox awk 'BEGIN { s = "0123456789abcdef"; while (1) s = s s }'`
	for script, want := range map[string]string{
		"exec " + hungry: "process was killed: out of memory (limit 32MiB) (exit code: 137)",
		// A shell or a compiler driver fails in its own way when a child of it is killed.
		hungry + "; exit 3": "exit code: 3, and a process was killed: out of memory (limit 32MiB)",
	} {
		spec := l.spec(script)
		spec.Resources = Resources{Memory: 32 << 20, MemorySwap: 32 << 20}
		_, err := l.try(spec)
		var exit *ExitError
		if !errors.As(err, &exit) || l.linked && exit.Error() != want {
			l.t.Errorf("%s: got %v, want %q", script, err, want)
		}
	}
	// A process that survives the death of another one has not failed.
	spec := l.spec(hungry + "; echo went on")
	spec.Resources.Memory = 32 << 20
	if got := l.run(spec); !strings.Contains(got, "went on") { // beside what the shell says of the child
		l.t.Errorf("got %q", got)
	}
}

// testBusyCgroup: a cgroup that is empty a while after the process only, as on a loaded machine, is removed too, and none
// of the others waits for it.
func testBusyCgroup(l *lab) {
	l.needCgroups()
	spec := l.spec("echo ready; read line; true")
	spec.Resources.CPUShares = 512
	patience := removePatience
	l.t.Cleanup(func() { removePatience = patience })
	removePatience = time.Minute
	stdin, end, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	var out lockedBuffer
	result := make(chan error, 1)
	go func() { result <- l.runner.Run(l.t.Context(), spec, IO{Stdin: stdin, Stdout: &out}) }()
	waitFor(l, &out, "ready")
	late := exec.Command(busybox, "cat")
	leave, err := late.StdinPipe()
	if err = errors.Join(err, late.Start()); err != nil {
		l.t.Fatal(err)
	}
	pid := strconv.Itoa(late.Process.Pid)
	dirs := cgroupsNamed(spec.ID)
	busy := slices.IndexFunc(dirs, func(dir string) bool { // not below a threaded one
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0) == nil
	})
	if busy < 0 {
		l.t.Fatalf("the container has no cgroup in %q", dirs)
	}
	kept := dirs[busy]
	if err := end.Close(); err != nil {
		l.t.Error(err)
	}
	l.until("the end of all that is not in use", func() bool {
		inside, _ := os.ReadFile(filepath.Join(kept, "cgroup.procs"))
		return strings.TrimSpace(string(inside)) == pid && slices.Equal(cgroupsNamed(spec.ID), []string{kept})
	})
	select {
	case err := <-result:
		l.t.Errorf("a cgroup that is in use was not waited for: %v", err)
	default:
	}
	if err := errors.Join(leave.Close(), late.Wait(), <-result); err != nil {
		l.t.Error(err)
	}
	if left := cgroupsNamed(spec.ID); len(left) > 0 {
		l.t.Errorf("cgroups after the run: %q", left)
	}
}

// A cgroup that is not there, as where a hierarchy would be is a file of version 2, needs no removing.
func TestRemoveMissingCgroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	if err := removeCgroup(filepath.Join(file, "below"), file+"-missing", "/proc/no/such"); err != nil {
		t.Error(err)
	}
	if err := removeCgroup(file); err == nil {
		t.Error("a file was taken for a cgroup")
	}
}

func testLimitErrors(l *lab) {
	for want, r := range map[string]Resources{
		"negative": {Memory: -1}, "smaller than that of memory": {Memory: 2 << 20, MemorySwap: 1 << 20},
		"quota": {CPUQuota: -5}, "processes": {Pids: -2},
	} {
		spec := l.command("true")
		spec.Resources = r
		if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), want) {
			l.t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
	spec := l.command("true")
	spec.Resources.CpusetCpus = "4000"
	if _, err := l.try(spec); err == nil || !strings.Contains(err.Error(), "limiting the container's resources: ") {
		l.t.Errorf("a processor that is not there: got %v", err)
	}
	if left := cgroupsNamed(spec.ID); len(left) > 0 {
		l.t.Errorf("cgroups after an error: %q", left)
	}
}
