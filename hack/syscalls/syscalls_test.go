package syscalls

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// dd makes two system calls for each block, in a process that a shell starts.
func count(t *testing.T, blocks int, run func(*exec.Cmd) (int64, error)) int64 {
	t.Helper()
	n, err := run(exec.Command("sh", "-c", "dd if=/dev/zero of=/dev/null bs=1 count="+strconv.Itoa(blocks)+" 2>/dev/null; true"))
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRun(t *testing.T) {
	for name, run := range map[string]func(*exec.Cmd) (int64, error){"Run": Run, "trace": trace} {
		t.Run(name, func(t *testing.T) {
			less, more := count(t, 100, run), count(t, 1100, run)
			if n := more - less; n < 1990 || n > 2010 {
				t.Errorf("1000 blocks more are %d system calls more, want 2000", n)
			}
		})
	}
}

// TestWaitingIsNotCounted has a command yield the processor many times.
func TestWaitingIsNotCounted(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip(err)
	}
	yield := func(times int) int64 {
		n, err := Run(exec.Command("perl", "-e", "syscall("+strconv.Itoa(unix.SYS_SCHED_YIELD)+") for 1.."+strconv.Itoa(times)))
		if errors.Is(err, ErrMissing) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if once, often := yield(1), yield(1000); often-once > 10 {
		t.Errorf("to yield 1000 times is %d system calls, once %d", often, once)
	}
}
