package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keepers take something of a filesystem out of a container, from a process's root, and keep it.
var keepers = map[string]func(root string) (release func() error, err error){
	"a file to write to": func(root string) (func() error, error) {
		f, err := os.OpenFile(filepath.Join(root, "file"), os.O_RDWR, 0)
		return f.Close, err
	},
	"a directory": func(root string) (func() error, error) {
		f, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
		return f.Close, err
	},
	"a mapping": func(root string) (func() error, error) {
		f, err := os.OpenFile(filepath.Join(root, "file"), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		data, err := unix.Mmap(int(f.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return func() error { return unix.Munmap(data) }, errors.Join(err, f.Close())
	},
	"a file on its way through a socket": func(root string) (func() error, error) {
		f, err := os.OpenFile(filepath.Join(root, "file"), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0)
		}
		return func() error { return errors.Join(unix.Close(pair[0]), unix.Close(pair[1])) }, errors.Join(err, f.Close())
	},
	"a deleted file": func(root string) (func() error, error) {
		f, err := os.OpenFile(filepath.Join(root, "file"), os.O_RDWR|unix.O_NONBLOCK, 0)
		return f.Close, errors.Join(err, os.Remove(filepath.Join(root, "file")))
	},
}

// testFinal: when Run has returned nil, nobody can write to the upper directory of a root that is final.
func testFinal(l *lab) {
	usual := endWait
	l.t.Cleanup(func() { endWait = usual })
	for what, keep := range keepers {
		endWait = time.Millisecond
		release, done := l.kept(l.t.Context(), keep)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "still has files of its root filesystem open") {
			l.t.Errorf("%s, kept for ever: got %v, want an error", what, err)
		}
		if err := release(); err != nil {
			l.t.Error(err)
		}
		endWait = time.Minute
		release, done = l.kept(l.t.Context(), keep)
		if err := release(); err != nil {
			l.t.Error(err)
		}
		if err := <-done; err != nil {
			l.t.Errorf("%s, kept for a while: got %v", what, err)
		}
	}
	endWait = time.Minute
	ctx, cancel := context.WithCancelCause(l.t.Context())
	cause := errors.New("enough")
	release, done := l.kept(ctx, keepers["a directory"])
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		l.t.Errorf("interrupted while it waits: got %v, want %v", err, cause)
	}
	if err := release(); err != nil {
		l.t.Error(err)
	}
}

// kept runs a process of which something is kept, and returns when it has ended.
func (l *lab) kept(ctx context.Context, keep func(string) (func() error, error)) (release func() error, done chan error) {
	t := l.t
	t.Helper()
	mark := fmt.Sprintf("mark-%d-%d", os.Getpid(), ids.Add(1))
	spec := l.command("sh", "-c", "echo text > /file; echo ready; read line; true", mark)
	spec.Root.Final = true
	stdin, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan error, 1)
	var out lockedBuffer
	go func() { done <- l.runner.Run(ctx, spec, IO{Stdin: stdin, Stdout: &out}) }()
	waitFor(l, &out, "ready")
	pid := shellOf(t, mark)
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	release, err = keep(fmt.Sprintf("/proc/%d/root", pid))
	if err = errors.Join(err, end.Close()); err != nil {
		t.Fatal(err)
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); { // by which Go's scheduler has a goroutine stop
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return release, done
}

// shellOf finds the shell that was given mark as its name.
func shellOf(t testing.TB, mark string) int {
	t.Helper()
	for _, pid := range processesOf(t, mark) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.HasPrefix(string(line), "sh\x00") {
			return pid
		}
	}
	t.Fatalf("no process with %s", mark)
	return 0
}
