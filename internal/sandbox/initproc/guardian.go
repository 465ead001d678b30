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

// Guardian is a process above a first process and all that comes of it, where there is no PID namespace that would end with
// the first: it ends them when the first has ended, or this process.
type Guardian struct {
	First // its Socket and Executed are the first process's; PID and PidFD are the guardian's

	control *os.File
}

// StartGuardian starts a guardian, and it a first process with the given descriptors. The guardian holds lock open until all
// processes are gone. With scoped it makes a Landlock domain for them, where the kernel can, and none of them can have more
// rights by a program that it executes.
func StartGuardian(files [3]int, lock int, scoped bool) (*Guardian, error) {
	program, err := sealed()
	if err != nil {
		return nil, fmt.Errorf("preparing the first process's program: %w", err)
	}
	var calls, control [2]int
	if calls, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("making the first process's socket: %w", err)
	}
	if control, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("making the guardian's socket: %w", err), unix.Close(calls[0]), unix.Close(calls[1]))
	}
	s := C.struct_start{program: C.int(program.Fd()), count: 6}
	for i, f := range append(files[:], calls[1], control[1], lock) {
		s.files[i] = C.int(f)
	}
	if scoped {
		s.scoped = 1
	}
	var pidfd C.int = -1
	pid := C.first_clone(&s, &pidfd)
	_, _ = unix.Close(calls[1]), unix.Close(control[1])
	if pid < 0 {
		return nil, errors.Join(fmt.Errorf("starting the guardian: %w", unix.Errno(-pid)), unix.Close(calls[0]), unix.Close(control[0]))
	}
	g := &Guardian{First: First{PID: int(pid), PidFD: int(pidfd), socket: calls[0]}}
	if err := unix.SetNonblock(control[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(control[0]), g.reap())
	}
	g.control = os.NewFile(uintptr(control[0]), "guardian")
	var first [4]byte
	if _, err := io.ReadFull(g.control, first[:]); err != nil {
		err = errors.Join(g.Executed(), err) // it has ended, and may tell why
		return nil, errors.Join(fmt.Errorf("starting the guardian: %w", err), g.control.Close(), g.reap())
	}
	return g, nil
}

// Signal sends a signal to the first process.
func (g *Guardian) Signal(signal unix.Signal) {
	_, _ = g.control.Write(binary.NativeEndian.AppendUint32(nil, uint32(signal))) // it may have ended
}

// Kill has all processes ended.
func (g *Guardian) Kill() {
	if conn, err := g.control.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// Wait waits until no process is left, calls ended, and tells how the first process ended. ended returns when nobody calls
// Signal or Kill any more.
func (g *Guardian) Wait(ended func()) (unix.WaitStatus, error) {
	var answer [8]byte
	_, err := io.ReadFull(g.control, answer[:])
	ended()
	if err == nil {
		if errno := binary.NativeEndian.Uint32(answer[4:]); errno != 0 {
			err = fmt.Errorf("processes that the step has started could not be ended: %w", unix.Errno(errno))
		}
	} else {
		err = fmt.Errorf("the process that guards the step was killed: %w", err)
	}
	return unix.WaitStatus(binary.NativeEndian.Uint32(answer[:])), errors.Join(err, g.control.Close(), g.reap())
}

// reap waits for the end of the guardian itself.
func (g *Guardian) reap() error {
	_, err := g.First.Wait(func() {})
	return err
}
