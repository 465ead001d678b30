package initproc

/*
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

// The longest program that the kernel takes.
static struct sock_filter gate_program[BPF_MAXINSNS];
static char gate_stack[64 << 10] __attribute__((aligned(16)));

static int gate_read(int fd, void *to, size_t size) {
	char *p = to;
	while (size > 0) {
		long n = syscall(SYS_read, fd, p, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		size -= n;
	}
	return 0;
}

static int gate_main(void *arg) {
	int fd = (int)(intptr_t)arg;
	struct { uint32_t flags, length; } head;
	if (gate_read(fd, &head, sizeof head) || head.length == 0 || head.length > BPF_MAXINSNS ||
	    gate_read(fd, gate_program, head.length * sizeof gate_program[0]))
		return 0; // the other side sees the end of the socket, with no answer
	struct sock_fprog program = { .len = head.length, .filter = gate_program };
	long ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, head.flags | SECCOMP_FILTER_FLAG_TSYNC, &program);
	int32_t answer = ret == 0 ? 0 : ret < 0 ? errno : ESRCH;
	syscall(SYS_write, fd, &answer, sizeof answer);
	return 0;
}

// gate_start starts the thread. It is none of libc's: when the process gives its privileges up,
// libc makes all threads that it knows do the same, but this one needs them.
static int gate_start(int fd) {
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old); // Go's signal handlers must not run on this thread
	int tid = clone(gate_main, gate_stack + sizeof gate_stack,
		CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, (void *)(intptr_t)fd);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return tid < 0 ? errno : 0;
}
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// gateFD is the descriptor of the gate's socket: the first file that libcontainer passes on.
const gateFD = 3

// startGate starts the inner side of a gate if libcontainer was given one: then its own
// descriptors begin after it.
func startGate() error {
	first := os.Getenv("_LIBCONTAINER_CONSOLE")
	if first == "" {
		first = os.Getenv("_LIBCONTAINER_INITPIPE")
	}
	if n, err := strconv.Atoi(first); err != nil || n <= gateFD {
		return err
	}
	unix.CloseOnExec(gateFD) // libcontainer would hand it to the program
	if errno := C.gate_start(gateFD); errno != 0 {
		return fmt.Errorf("starting the seccomp thread: %w", syscall.Errno(errno))
	}
	return nil
}

// PassGate gives a container that libcontainer has started, but that has not executed its
// program yet, the seccomp filter with which it will. The filter is a compiled program of
// struct sock_filter in host byte order, flags are those of seccomp(2); socket is the other end
// of the one that was the process's first extra file.
//
// libcontainer compiles the filter anew in each container, which takes longer than everything
// else together. Here it arrives ready, and a thread of the container's first process, which has
// waited for it since before libcontainer began and still has all privileges, sets it for all
// threads. When PassGate has returned nil the filter is in force.
func PassGate(socket *os.File, flags uint32, filter []byte) error {
	head := binary.NativeEndian.AppendUint32(nil, flags)
	head = binary.NativeEndian.AppendUint32(head, uint32(len(filter)/C.sizeof_struct_sock_filter))
	if _, err := socket.Write(append(head, filter...)); err != nil {
		return fmt.Errorf("sending the seccomp filter: %w", err)
	}
	var answer [4]byte
	if _, err := io.ReadFull(socket, answer[:]); err != nil {
		return fmt.Errorf("setting the seccomp filter: %w", errors.Join(errors.New("no answer from the container"), err))
	}
	if errno := binary.NativeEndian.Uint32(answer[:]); errno != 0 {
		return fmt.Errorf("setting the seccomp filter: %w", syscall.Errno(errno))
	}
	return nil
}
