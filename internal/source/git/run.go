package gitsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// runWithUmask runs git with the umask 022, whatever slipway's is: git's modes are part of a layer.
func (s *Source) runWithUmask(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which has a umask of its own, ends here
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		unix.Umask(0o022)
		done <- s.runGroup(ctx, cmd)
	}()
	return <-done
}

// killAfter is how long git may take to end when it is told to.
const killAfter = 10 * time.Second

// runGroup runs a command as a process group of its own, which ends with ctx: git starts helpers
// that outlive it.
func (s *Source) runGroup(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	over := make(chan struct{})
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	go s.watch(cmd.Process.Pid, over, give)
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
		select {
		case <-over:
		case <-time.After(killAfter):
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		}
	})
	defer stop()
	defer close(over)
	err := cmd.Wait()
	var idle *idleError
	if err != nil && errors.As(context.Cause(ctx), &idle) {
		return idle
	}
	return err
}

// idle is how little git may do before it is given up: less than bytes read, and no time on a processor,
// between two looks, a window apart. Servers that prepare much send a few bytes every five seconds meanwhile.
type idle struct {
	window time.Duration
	bytes  int64
}

var defaultIdle = idle{window: 3 * time.Minute, bytes: 60}

type idleError struct{ idle }

func (e *idleError) Error() string {
	return fmt.Sprintf("the server has sent less than %d bytes in %s, and git waits for more", e.bytes, e.window)
}

// watch gives git up when it does nothing any more.
func (s *Source) watch(group int, over <-chan struct{}, give context.CancelCauseFunc) {
	tick := time.NewTicker(s.idle.window)
	defer tick.Stop()
	var before doings // looking costs more than a short command of git's takes, so nothing is looked at before a window is over
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		now := activity(group)
		if now.members == before.members && now.ticks == before.ticks && now.bytes-before.bytes < s.idle.bytes {
			give(&idleError{s.idle})
			return
		}
		before = now
	}
}

// doings are what the processes of a group have done so far.
type doings struct {
	members      string
	ticks, bytes int64
}

// activity reads what the processes of a group have done. What cannot be read has ended.
func activity(group int) doings {
	var d doings
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		// proc(5): "pid (comm) state ppid pgrp ...", and comm may have anything in it.
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) < 13 || string(f[2]) != strconv.Itoa(group) {
			continue
		}
		d.members += name
		for _, ticks := range f[11:13] { // utime, stime
			n, _ := strconv.ParseInt(string(ticks), 10, 64) // the kernel's number
			d.ticks += n
		}
		io, err := os.ReadFile(filepath.Join(filepath.Dir(name), "io"))
		if err != nil {
			continue
		}
		if _, text, ok := bytes.Cut(io, []byte("rchar: ")); ok {
			text, _, _ = bytes.Cut(text, []byte("\n"))
			n, _ := strconv.ParseInt(string(text), 10, 64) // the kernel's number
			d.bytes += n
		}
	}
	return d
}
