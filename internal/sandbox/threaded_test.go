package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// ownState is what slipway changes of the cgroup that it is in.
func ownState(t testing.TB, parent string) string {
	t.Helper()
	var all []string
	for _, name := range []string{"cgroup.type", "cgroup.subtree_control"} {
		text, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil && !os.IsNotExist(err) { // the topmost has no type
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(text)))
	}
	_, err := unix.Getxattr(parent, pidsMark, nil)
	return fmt.Sprintf("%q marked %v", all, err == nil)
}

// unmarked is the cgroup of this process as it is without a slipway.
func unmarked(t *testing.T) (parent, state string) {
	t.Helper()
	parent = unifiedCgroup()
	if parent == "" || os.Geteuid() != 0 {
		t.Skip("cgroups of version 2 alone are needed, as make vm has them")
	}
	if err := restorePids(parent); err != nil { // of the tests before
		t.Fatal(err)
	}
	if state = ownState(t, parent); state != off {
		t.Fatalf("this test's own cgroup is %s, want %s", state, off)
	}
	return parent, state
}

const off, on = `["domain" ""] marked false`, `["domain threaded" "pids"] marked `

// withGuard limits processes, calls f meanwhile and wants the limit to be there still.
func withGuard(id string, limit int64, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &guard{id: id}
	err := g.guardProcesses(limit)
	if err == nil {
		err = f()
	}
	if err == nil {
		var text []byte
		text, err = os.ReadFile(filepath.Join(g.joined[0].dir, "pids.max"))
		if got := strings.TrimSpace(string(text)); err == nil && got != fmt.Sprint(limit) {
			err = fmt.Errorf("the limit is %q, want %d", got, limit)
		}
	}
	return errors.Join(err, g.leave())
}

// TestOwnCgroup: slipway's own cgroup is after the last slipway what it was before the first.
func TestOwnCgroup(t *testing.T) {
	parent, before := unmarked(t)
	want := func(when, want string) {
		t.Helper()
		if got := ownState(t, parent); got != want {
			t.Errorf("%s: got %s, want %s", when, got, want)
		}
	}
	guarded := func(state string) {
		t.Helper()
		err := withGuard(fmt.Sprintf("slipway-test-%d-own", os.Getpid()), 7, func() error {
			want("with a guard", state)
			if err := restorePids(parent); err != nil {
				return err
			}
			want("with a guard, when another slipway has ended", state)
			return nil
		})
		if err = errors.Join(err, restorePids(parent)); err != nil {
			t.Error(err)
		}
	}
	guarded(on + "true")
	want("after a guard", before)

	// Somebody else who uses the controller, because slipway has turned it on.
	other := filepath.Join(parent, fmt.Sprintf("slipway-test-%d-other", os.Getpid()))
	t.Cleanup(func() {
		_ = unix.Rmdir(other) // it is gone if all is well
		_ = passPids(parent, "-pids")
	})
	err := withGuard(fmt.Sprintf("slipway-test-%d-own", os.Getpid()), 7, func() error { return os.Mkdir(other, 0o755) })
	if err = errors.Join(err, restorePids(parent)); err != nil {
		t.Error(err)
	}
	if got := ownState(t, parent); !strings.Contains(got, `"pids"`) {
		t.Errorf("with a cgroup of somebody else: got %s, want pids", got)
	}
	if err := errors.Join(unix.Rmdir(other), restorePids(parent)); err != nil {
		t.Error(err)
	}
	want("after it", before)

	// Somebody had turned it on before.
	if err := passPids(parent, "+pids"); err != nil {
		t.Fatal(err)
	}
	guarded(on + "false")
	want("after a guard where it was on before", on+"false")
	if err := passPids(parent, "-pids"); err != nil {
		t.Error(err)
	}
}

// TestSlipwaysInOneCgroup: none takes the limit of another one away, and none goes without.
func TestSlipwaysInOneCgroup(t *testing.T) {
	parent, before := unmarked(t)
	var all sync.WaitGroup
	for n := range 6 {
		all.Go(func() {
			for i := range 50 {
				err := withGuard(fmt.Sprintf("slipway-test-%d-%d-%d", os.Getpid(), n, i), int64(10+n), func() error { return restorePids(parent) })
				if err = errors.Join(err, restorePids(parent)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if after := ownState(t, parent); after != before {
		t.Errorf("slipway's own cgroup: before %s, after %s", before, after)
	}
}

// TestSlipwayEnds: with processes, of which one ends while another one runs a container.
func TestSlipwayEnds(t *testing.T) {
	parent, before := unmarked(t)
	l := newLab(t, func(t testing.TB, state string) Runner { mkdir(t, state); return nil })
	l.linked = true
	long, short := l.helper(), l.helper()
	long.run("echo READY; sleep MARK")
	short.run("echo READY")
	short.end()
	for _, guard := range long.guards(0) {
		if text, err := os.ReadFile(filepath.Join(guard, "pids.max")); string(text) != "100\n" {
			t.Errorf("the limit of a container after the end of another slipway: got %q, %v", text, err)
		}
	}
	for _, pid := range processesOf(t, long.mark) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	long.end()
	if after := ownState(t, parent); after != before {
		t.Errorf("slipway's own cgroup: before %s, after %s", before, after)
	}
}
