package processes

import (
	"os"
	"os/exec"
	"testing"
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
