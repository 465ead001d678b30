// Package syscalls counts the system calls that a command makes, with all processes that it starts. Those by which threads wait for each other, and
// by which Go's runtime switches between goroutines, are left out: the more often, the busier the machine is.
package syscalls

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrMissing says that there is nothing here to count with.
var ErrMissing = errors.New("system calls cannot be counted: the kernel has no tracepoint for this process, and there is no strace")

// waiting are the calls that are not counted, by the names and the numbers that they have.
var waiting = map[string]int{
	"futex": unix.SYS_FUTEX, "nanosleep": unix.SYS_NANOSLEEP, "sched_yield": unix.SYS_SCHED_YIELD, "epoll_pwait": unix.SYS_EPOLL_PWAIT,
	"tgkill": unix.SYS_TGKILL, "getpid": unix.SYS_GETPID, "rt_sigreturn": unix.SYS_RT_SIGRETURN, "rt_sigprocmask": unix.SYS_RT_SIGPROCMASK,
}

// Run runs a command and counts its system calls. The kernel counts them, without slowing anything down; where it
// does not, strace does, with which there are some more: what waits for something looks for it more often.
func Run(cmd *exec.Cmd) (int64, error) {
	counter, err := open()
	if err != nil {
		return trace(cmd)
	}
	defer runtime.UnlockOSThread()
	defer unix.Close(counter)
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	var value [8]byte
	if _, err := unix.Read(counter, value[:]); err != nil {
		return 0, fmt.Errorf("reading the counter of system calls: %w", err)
	}
	return *(*int64)(unsafe.Pointer(&value)), nil
}

// open locks the calling thread and begins to count what the processes do that it starts, from their first execve on.
func open() (int, error) {
	var id uint64
	var err error
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(dir, "events/raw_syscalls/sys_enter/id")); err == nil {
			id, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
			break
		}
	}
	if err != nil {
		return -1, err
	}
	runtime.LockOSThread()
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitDisabled | unix.PerfBitInherit | unix.PerfBitEnableOnExec}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		runtime.UnlockOSThread()
		return -1, os.NewSyscallError("perf_event_open", err)
	}
	var filter []string
	for _, number := range waiting {
		filter = append(filter, fmt.Sprintf("id != %d", number))
	}
	if err := unix.IoctlSetString(fd, unix.PERF_EVENT_IOC_SET_FILTER, strings.Join(filter, " && ")); err != nil {
		unix.Close(fd)
		runtime.UnlockOSThread()
		return -1, fmt.Errorf("filtering the tracepoint: %w", err)
	}
	return fd, nil
}

// trace counts with strace.
func trace(cmd *exec.Cmd) (int64, error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return 0, ErrMissing
	}
	dir, err := os.MkdirTemp("", "syscalls-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "counts")
	cmd.Args = append([]string{"strace", "-f", "-c", "-e", "trace=!" + strings.Join(slices.Sorted(maps.Keys(waiting)), ","), "-o", out, "--", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = strace
	if err := cmd.Run(); err != nil {
		return 0, err
	}
	f, err := os.Open(out)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// "100.00    0.001234           1      1234        56 total"
		if fields := strings.Fields(lines.Text()); len(fields) >= 5 && fields[len(fields)-1] == "total" {
			return strconv.ParseInt(fields[3], 10, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("reading %s: no total", out), lines.Err())
}
