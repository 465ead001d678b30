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
	w := &Watchdog{cmd: exec.Command(program, "init"), socket: os.NewFile(uintptr(pair[0]), "watchdog")}
	w.cmd.Env = []string{watchdogVariable + "=1", "GOMAXPROCS=1"}
	w.cmd.Dir = "/"
	w.cmd.ExtraFiles = []*os.File{inner}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills the whole group does not meet it
	if err := w.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the watchdog: %w", err), w.socket.Close())
	}
	return w, nil
}

// Watch has the process of a pidfd killed when this process dies.
func (w *Watchdog) Watch(pidfd int) error {
	err := unix.Sendmsg(int(w.socket.Fd()), []byte{0}, unix.UnixRights(pidfd), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("having a container watched: %w", err)
	}
	return nil
}

// Close ends the watchdog. Containers that still run are killed.
func (w *Watchdog) Close() error {
	return errors.Join(w.socket.Close(), w.cmd.Wait())
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
		// Those that have ended need no watching.
		alive := watched[:0]
		for _, fd := range watched {
			if unix.PidfdSendSignal(fd, 0, nil, 0) == nil {
				alive = append(alive, fd)
			} else {
				_ = unix.Close(fd)
			}
		}
		watched = append(alive, received(oob[:oobn])...)
	}
	for _, fd := range watched {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it may have ended
	}
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
