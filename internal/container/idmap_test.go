package container

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

// TestIDMap reads that of a process in a user namespace, and that of one in ours.
func TestIDMap(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	ids := func(outside int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: outside, Size: 10}, {ContainerID: 1000, HostID: outside + 10, Size: 5}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids(5000), GidMappings: ids(7000), GidMappingsEnableSetgroups: false}
	if err := cmd.Start(); err != nil {
		t.Skip("no user namespaces here: ", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	m, err := readIDMap(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, ids := range [][4]uint32{{0, 0, 5000, 7000}, {9, 1004, 5009, 7014}} {
		w, err := m.written(&layer.Entry{UID: ids[0], GID: ids[1]})
		if err != nil || w.UID != ids[2] || w.GID != ids[3] {
			t.Errorf("%d:%d is written as %+v (%v), want %d:%d", ids[0], ids[1], w, err, ids[2], ids[3])
			continue
		}
		if e := m.shown(w); e.UID != ids[0] || e.GID != ids[1] {
			t.Errorf("%d:%d is shown as %d:%d", w.UID, w.GID, e.UID, e.GID)
		}
	}
	for _, id := range []uint32{10, 999, 1005} {
		if _, err := m.written(&layer.Entry{Path: "etc/file", UID: id}); err == nil || !strings.Contains(err.Error(), "/etc/file: the container's user namespace has no ID") {
			t.Errorf("%d is written, %v", id, err)
		}
	}
	for _, id := range []uint32{4999, 5015, 0} {
		if e := m.shown(&layer.Entry{UID: id, GID: 7000}); e.UID != 65534 || e.GID != 0 {
			t.Errorf("%d is shown as %d", id, e.UID)
		}
	}
	own, err := readIDMap(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if w, err := own.written(&layer.Entry{UID: 1 << 31, GID: 3}); err != nil || w.UID != 1<<31 || own.shown(w).GID != 3 {
		t.Errorf("without a namespace an owner is written as %+v, %v", w, err)
	}
}
