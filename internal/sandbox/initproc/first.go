package initproc

// #include "first.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// First is the first process of a container. It makes the system calls that it is sent, the last of which executes the
// container's program.
type First struct {
	PID    int
	PidFD  int
	Usage  unix.Rusage // of it and of all that it has waited for, once Wait has returned
	socket int
}

// Start starts a first process with the given descriptors and namespaces (CLONE_NEW*). It is killed when the calling thread
// ends. With CLONE_NEWUSER it waits for Mapped.
func Start(files [3]int, namespaces int) (*First, error) {
	program, err := sealed()
	if err != nil {
		return nil, fmt.Errorf("preparing the first process's program: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the first process's socket: %w", err)
	}
	s := C.struct_start{program: C.int(program.Fd()), count: 4, flags: C.int(namespaces)}
	for i, f := range files {
		s.files[i] = C.int(f)
	}
	s.files[3] = C.int(pair[1])
	var pidfd C.int = -1
	pid := C.first_clone(&s, &pidfd)
	_ = unix.Close(pair[1])
	if pid < 0 {
		return nil, errors.Join(fmt.Errorf("starting the first process: %w", unix.Errno(-pid)), unix.Close(pair[0]))
	}
	return &First{PID: int(pid), PidFD: int(pidfd), socket: pair[0]}, nil
}

// Mapped says that the process's user namespace has its IDs.
func (f *First) Mapped() error { return f.Send([]byte{1}) }

// Send sends the calls.
func (f *First) Send(message []byte) error {
	for len(message) > 0 {
		n, err := unix.SendmsgN(f.socket, message, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		message = message[n:]
	}
	return nil
}

// Socket is where the calls can send something, before they end.
func (f *First) Socket() int { return f.socket }

// Failed is how a call failed.
type Failed struct {
	Call  int // its number; -1: the program was not executed
	Errno unix.Errno
}

func (f *Failed) Error() string { return fmt.Sprintf("call %d: %v", f.Call, f.Errno) }
func (f *Failed) Unwrap() error { return f.Errno }

// Executed waits until the container's program is executed. The error is a [*Failed] if a call failed.
func (f *First) Executed() error {
	var answer [8]byte
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) { // an answer is sent as a whole
		n, err = unix.Read(f.socket, answer[:])
	}
	switch {
	case n == len(answer):
		return &Failed{int(int32(binary.NativeEndian.Uint32(answer[:]))), unix.Errno(binary.NativeEndian.Uint32(answer[4:]))}
	case n == 0 && err == nil:
		return nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("waiting for the container: %w", err)
}

// Wait waits for the end of the process, calls ended, and closes everything. ended returns when nobody uses PidFD any more.
func (f *First) Wait(ended func()) (ws unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(f.PID, &ws, 0, &f.Usage)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	ended()
	return ws, errors.Join(os.NewSyscallError("wait4", err), unix.Close(f.socket), unix.Close(f.PidFD))
}
