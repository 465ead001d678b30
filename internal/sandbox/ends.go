package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ends tells when mounted filesystems are really gone. What is unmounted lives on while anybody has
// something of it: an open file, one on its way through a socket, a mapping, a loop device. The kernel
// tells those who watch a directory when its filesystem ends.
type ends struct {
	inotify int // a descriptor; 0 before the first watch
	count   int // filesystems that are watched and not gone
}

// endWait bounds how long a filesystem may live on. The processes of the container are dead by then, and
// all but a few odd things that they had went before them.
var endWait = 10 * time.Second

// watch begins to watch the filesystem whose top directory is path.
func (e *ends) watch(path string) (err error) {
	if e.inotify == 0 {
		e.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	}
	if err == nil {
		_, err = unix.InotifyAddWatch(e.inotify, path, unix.IN_DELETE_SELF|unix.IN_ONLYDIR) // and its end, in any case
	}
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("watching the end of a filesystem: %w (raise fs.inotify.max_user_instances and fs.inotify.max_user_watches with sysctl)", err)
	}
	if err != nil {
		return fmt.Errorf("watching the end of a filesystem: %w", err)
	}
	e.count++
	return nil
}

// wait waits until the filesystems, which are unmounted, are gone.
func (e *ends) wait(ctx context.Context) error {
	buf := make([]byte, 4096)
	n, err := 0, error(nil)
	for e.count > 0 && err == nil {
		if n, err = unix.Read(e.inotify, buf); errors.Is(err, unix.EINTR) {
			err = nil
			continue
		}
		e.read(buf[:max(n, 0)])
	}
	if errors.Is(err, unix.EAGAIN) {
		err = e.waitLonger(ctx, buf)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("something outside of the container still has files of its root filesystem open and could change them: " +
			"a process that was sent them through a socket, or a loop device; end it, or have it close them, before the command ends")
	}
	return fmt.Errorf("waiting for the end of a filesystem: %w", err)
}

func (e *ends) waitLonger(ctx context.Context, buf []byte) error {
	f := os.NewFile(uintptr(e.inotify), "inotify") // a descriptor that does not block: Go waits for it
	e.inotify = 0
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(endWait)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	for e.count > 0 {
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		e.read(buf[:n])
	}
	return nil
}

// read counts the ends among the events in buf, which are whole.
func (e *ends) read(buf []byte) {
	for len(buf) >= unix.SizeofInotifyEvent {
		if binary.NativeEndian.Uint32(buf[4:])&unix.IN_UNMOUNT != 0 {
			e.count--
		}
		buf = buf[min(len(buf), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(buf[12:]))):]
	}
}

func (e *ends) close() error {
	if e.inotify == 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(e.inotify))
}
