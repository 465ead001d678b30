package initproc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogVariable is set in the environment of a watchdog, for who looks for one.
const watchdogVariable = "_SLIPWAY_WATCHDOG"

// Watchdog is a process that kills containers when this one has died in whatever way. The signal that the
// kernel sends to the first process of a container then is gone once that process has changed its user, as
// su does, or does not want it.
type Watchdog struct {
	cmd    *exec.Cmd
	socket *os.File
}

// StartWatchdog starts one from a program, or from its own if that is "": it takes processes until the socket is closed,
// and kills them then (program.c).
func StartWatchdog(program string) (*Watchdog, error) {
	if program == "" {
		own, err := sealed()
		if err != nil {
			return nil, fmt.Errorf("preparing the watchdog's program: %w", err)
		}
		program = fmt.Sprint("/proc/self/fd/", own.Fd())
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the watchdog's socket: %w", err)
	}
	inner := os.NewFile(uintptr(pair[1]), "watchdog")
	defer inner.Close()
	err = unix.SetNonblock(pair[0], true) // so that no thread waits in Wait
	w := &Watchdog{cmd: exec.Command(program, "watchdog"), socket: os.NewFile(uintptr(pair[0]), "watchdog")}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the watchdog's socket: %w", err), w.socket.Close())
	}
	w.cmd.Env = []string{watchdogVariable + "=1"}
	w.cmd.Dir = "/"
	w.cmd.ExtraFiles = []*os.File{inner}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills the whole group does not meet it
	if err := w.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the watchdog: %w", err), w.socket.Close())
	}
	return w, nil
}

// Watch has the process of a pidfd killed when this process dies. The error is EPIPE or ECONNRESET if the watchdog is
// dead, and os.ErrDeadlineExceeded if it has not read for so long what it was sent before.
func (w *Watchdog) Watch(pidfd int, patience time.Duration) error {
	conn, err := w.socket.SyscallConn()
	if err == nil {
		err = w.socket.SetWriteDeadline(time.Now().Add(patience))
	}
	if err == nil {
		var serr error
		err = conn.Write(func(fd uintptr) bool {
			serr = unix.Sendmsg(int(fd), []byte{0}, unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL)
			return !errors.Is(serr, unix.EAGAIN)
		})
		err = errors.Join(err, serr)
	}
	if err != nil {
		return fmt.Errorf("having a container watched: %w", err)
	}
	return nil
}

// Wait returns when the watchdog is dead or was killed here: it sends nothing while it lives.
func (w *Watchdog) Wait() { _, _ = w.socket.Read(make([]byte, 1)) }

// Kill ends the watchdog alone, also one that was stopped.
func (w *Watchdog) Kill() error {
	_ = w.cmd.Process.Kill() // it may be dead
	return errors.Join(w.cmd.Wait(), w.socket.Close())
}

// Living closes pidfds of processes that have ended, which need no watching, and returns the others.
func Living(pidfds []int) []int {
	living := pidfds[:0]
	for _, fd := range pidfds {
		if errors.Is(unix.PidfdSendSignal(fd, 0, nil, 0), unix.ESRCH) {
			_ = unix.Close(fd)
		} else {
			living = append(living, fd)
		}
	}
	return living
}
