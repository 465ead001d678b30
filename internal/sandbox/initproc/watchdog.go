package initproc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchdogVariable is set in the environment of a watchdog.
const watchdogVariable = "_SLIPWAY_WATCHDOG"

// Watchdog is a process that kills containers when this one has died in whatever way. The signal that the
// kernel sends to the first process of a container then is gone once that process has changed its user, as
// su does, or does not want it.
type Watchdog struct {
	cmd    *exec.Cmd
	socket *os.File
}

// StartWatchdog starts one from a program that imports this package.
func StartWatchdog(program string) (*Watchdog, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the watchdog's socket: %w", err)
	}
	inner := os.NewFile(uintptr(pair[1]), "watchdog")
	defer inner.Close()
	err = unix.SetNonblock(pair[0], true) // so that no thread waits in Wait
	w := &Watchdog{cmd: exec.Command(program, "init"), socket: os.NewFile(uintptr(pair[0]), "watchdog")}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the watchdog's socket: %w", err), w.socket.Close())
	}
	w.cmd.Env = []string{watchdogVariable + "=1", "GOMAXPROCS=1"}
	w.cmd.Dir = "/"
	w.cmd.ExtraFiles = []*os.File{inner}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills the whole group does not meet it
	if err := w.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the watchdog: %w", err), w.socket.Close())
	}
	return w, nil
}

// Watch has the process of a pidfd killed when this process dies. The error is EPIPE or ECONNRESET if the watchdog is
// dead.
func (w *Watchdog) Watch(pidfd int) error {
	conn, err := w.socket.SyscallConn()
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

// Wait returns when the watchdog is dead or closed: it sends nothing while it lives.
func (w *Watchdog) Wait() { _, _ = w.socket.Read(make([]byte, 1)) }

// Close ends the watchdog. Containers that still run are killed.
func (w *Watchdog) Close() error {
	return errors.Join(w.socket.Close(), w.cmd.Wait())
}

// Kill ends the watchdog alone.
func (w *Watchdog) Kill() error {
	_ = w.cmd.Process.Kill() // it may be dead
	return w.Close()
}

// watch is the watchdog: it takes processes until the socket is closed, and kills them then.
func watch(socket int) {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	var watched []int
	for {
		data, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(socket, data, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		watched = append(Living(watched), received(oob[:oobn])...)
	}
	for _, fd := range watched {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
	}
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

// received are the descriptors of a message.
func received(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if some, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}
