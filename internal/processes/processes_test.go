package processes

import (
	"encoding/binary"
	"os"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel tells of all that came of a process, and of nothing else: a shell, what it starts, and what that leaves behind.
func TestWatch(t *testing.T) {
	w, err := Start()
	if err != nil {
		if os.Geteuid() == 0 {
			t.Log("root in a container is told nothing")
		}
		t.Skip(err)
	}
	other := exec.Command("true")
	if err := other.Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "true; sh -c 'dd if=/dev/zero of=/dev/null bs=1M count=3; exit 3' 2>/dev/null; kill -9 $$")
	_ = cmd.Run() // it is killed
	all, lost, err := w.Close(cmd.Process.Pid)
	if err != nil || lost > 0 {
		t.Fatalf("lost %d times, %v", lost, err)
	}
	var read int64
	exits := map[int]int{}
	for _, p := range all {
		if p.Root != cmd.Process.Pid || p.PID == other.Process.Pid || p.Memory == 0 || p.Took <= 0 || p.Started.IsZero() {
			t.Errorf("%+v is told", p)
		}
		exits[p.Exit]++
		if p.Command == "dd" {
			read = p.Read
		}
	}
	if exits[3] != 1 || exits[128+9] != 1 || read < 3<<20 {
		t.Errorf("told is %+v", all)
	}
}

func TestAttributes(t *testing.T) {
	for _, hostile := range [][]byte{nil, {1}, {0, 0, 1, 0}, {255, 255, 1, 0, 1}, {4, 0, 1, 0, 3, 0}} {
		attributes(hostile) // ends, and reads nothing that is not there
		_ = messages(hostile, func(uint16, []byte) error { return nil })
	}
	if a := attributes([]byte{5, 0, 1, 0, 7, 0, 0, 0, 6, 0, 2, 0, 8, 9}); len(a) != 2 || a[1][0] != 7 || a[2][1] != 9 {
		t.Errorf("they are %v", a)
	}
}

// What a process has used is told of it however late its threads are heard of, and not of the next one with its number.
func TestThreads(t *testing.T) {
	w := &Watch{of: map[int][]*Process{}, open: map[*Process]bool{}}
	now := time.Now()
	ended := func(tid int, age, late time.Duration) {
		st := unix.Taskstats{Version: tgidVersion, Ac_pid: uint32(tid), Ac_tgid: 7, Ac_ppid: 1, Ac_utime: 1000, Ac_tgetime: uint64(age.Microseconds())}
		data := unsafe.Slice((*byte)(unsafe.Pointer(&st)), unsafe.Sizeof(st))
		attr := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofNlAttr+len(data)))
		attr = append(binary.NativeEndian.AppendUint16(attr, unix.TASKSTATS_TYPE_STATS), data...)
		w.add(attr, now.Add(age+late))
	}
	ended(8, time.Second, 0)
	ended(9, 2*time.Second, 300*time.Millisecond)
	ended(7, 3*time.Second, 0)
	now = now.Add(4 * time.Second)
	ended(7, time.Second, 0)
	all := w.of[7]
	if len(all) != 2 || all[0].User != 3*time.Millisecond || all[1].User != time.Millisecond || all[0].Parent != 1 {
		t.Errorf("told are %d processes: %+v", len(all), all)
	}
}

// The kernel alone is believed.
func TestOfKernel(t *testing.T) {
	for from, want := range map[unix.Sockaddr]bool{&unix.SockaddrNetlink{}: true, &unix.SockaddrNetlink{Pid: 5}: false, &unix.SockaddrUnix{}: false, nil: false} {
		if ofKernel(from) != want {
			t.Errorf("%+v is of the kernel: %t", from, !want)
		}
	}
}
