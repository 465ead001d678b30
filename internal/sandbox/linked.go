package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// linked executes bundles by itself.
type linked struct {
	filter     func() ([]byte, error) // gives the compiled seccomp filter
	containers containers
}

// prepare begins with what the first run needs. The function that it returns waits for the end.
func (l *linked) prepare() (wait func()) {
	var all sync.WaitGroup
	all.Go(func() { _, _ = l.filter() }) // whoever needs it gets the error
	all.Go(func() { _ = watchdog.start(self) })
	initproc.Prepare()
	if nested() {
		boundProc()
	}
	return all.Wait
}

// guard implements runner.guard. A container with a cgroup gets its rules and limits there.
func (*linked) guard(spec *Spec) (leave func() error, ok bool) {
	if spec.hasCgroup() {
		return func() error { return nil }, !spec.Insecure && devicesCgroup() != ""
	}
	g := &guard{id: spec.ID}
	if spec.MaxProcesses > 0 {
		_ = g.guardProcesses(spec.MaxProcesses) // not everybody may make cgroups
	}
	return g.leave, !spec.Insecure && g.guardDevices() == nil
}

// run executes a bundle.
func (l *linked) run(ctx context.Context, b *bundle, streams IO) (err error) {
	if err := b.uncover(); err != nil {
		return err
	}
	if b.spec.hasCgroup() {
		if err := b.makeCgroup(); err != nil {
			return err
		}
		defer func() {
			if derr := b.leaveCgroup(); derr != nil && err == nil {
				err = fmt.Errorf("cleaning up container: %w", derr)
			}
		}()
	}
	if err := b.prepareInside(); err != nil {
		return err
	}
	wires, err := wire(b.spec.Terminal, streams, false)
	if err != nil {
		return err
	}
	defer wires.close()
	if err := wires.give(b.ids); err != nil {
		return err
	}
	process, err := l.start(ctx, b, wires)
	if err != nil {
		return err
	}
	container := l.containers.add(b, process)
	if streams.Started != nil {
		streams.Started()
	}
	stop := forward(ctx, streams, wires, func(sig unix.Signal) {
		_ = unix.PidfdSendSignal(process.PidFD, sig, nil, 0) // the process may be gone
	})
	ws, err := process.Wait(func() {
		stop()
		l.containers.end(container)
	})
	streams.used(process.PID, &process.Usage)
	wires.drain(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("waiting for the process: %w", err)
	case ws.Exited() && ws.ExitStatus() == 0:
		return nil
	}
	return b.exitError(ws)
}

// filterOf compiles the bundle's seccomp profile; the default one was compiled before.
func (l *linked) filterOf(b *bundle) ([]byte, error) {
	switch {
	case b.oci.Linux.Seccomp == nil:
		return nil, nil
	case b.spec.tweaked(), b.spec.ownSeccomp():
		return compileFilter(b.oci.Linux.Seccomp)
	}
	return l.filter()
}

// start starts the container's first process and has it execute the wanted program.
func (l *linked) start(ctx context.Context, b *bundle, w *wires) (*initproc.First, error) {
	filter, err := l.filterOf(b)
	if err != nil {
		return nil, err
	}
	for i, f := range w.ends {
		b.given[i] = f != nil
	}
	if err := b.makeNull(); err != nil {
		return nil, err
	}
	calls, err := b.calls(filter)
	if err != nil {
		return nil, err
	}
	message, err := calls.Message()
	if err != nil {
		return nil, fmt.Errorf("starting the container: %w", err)
	}
	process, err := b.startFirst(w.ends)
	w.started()
	if err != nil {
		return nil, fmt.Errorf("starting the container: %w", err)
	}
	return process, l.launch(ctx, launching{b, process, &calls.Calls, w}, func() error { return b.release(process, message) })
}

// launching is a process that waits for its calls.
type launching struct {
	b       *bundle
	process *initproc.First
	calls   *initproc.Calls
	wires   *wires
}

// launch has release let a process go, and waits until the program is executed. If that fails the process has ended.
func (*linked) launch(ctx context.Context, s launching, release func() error) error {
	// A call may take as long as a filesystem wants.
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(s.process.PidFD, unix.SIGKILL, nil, 0) // it may have ended
		close(killed)
	})
	err := release()
	if err == nil {
		if s.b.spec.Terminal {
			s.wires.fetch(s.process.Socket())
		}
		err = s.b.supervise(s.process.Socket())
	}
	if err == nil {
		err = startError(s.b.spec, s.calls, s.process.Executed())
	}
	if !stop() {
		<-killed
	}
	if err != nil {
		_ = unix.PidfdSendSignal(s.process.PidFD, unix.SIGKILL, nil, 0) // it may have ended, which is the error then
		_, _ = s.process.Wait(func() {})
	}
	return err
}

// startFirst starts the first process with its streams, where nil is nothing, in its namespaces.
func (b *bundle) startFirst(ends [3]*opened) (*initproc.First, error) {
	namespaces := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS
	if b.hasUserNS() {
		namespaces |= unix.CLONE_NEWUSER
	} else {
		namespaces |= unix.CLONE_NEWIPC
	}
	return startWith(ends, b.null, namespaces)
}

// startWith starts a process with streams, of which nil ones are the file null.
func startWith(ends [3]*opened, null string, namespaces int) (*initproc.First, error) {
	var files [3]int
	if slices.Contains(ends[:], nil) {
		null, err := openFile(null, unix.O_RDWR)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		for i := range ends {
			if ends[i] == nil {
				ends[i] = null
			}
		}
	}
	for i, f := range ends {
		files[i] = f.fd
	}
	return initproc.Start(files, namespaces)
}

// release gives the first process what only its parent can give it, and lets it go.
func (b *bundle) release(process *initproc.First, message []byte) error {
	if err := watchdog.watch(process.PidFD, self); err != nil {
		return err
	}
	if b.hasUserNS() {
		if err := b.mapping().write(process.PID); err != nil {
			return err
		}
		if err := process.Mapped(); err != nil {
			return fmt.Errorf("starting the container: %w", err)
		}
	}
	if b.cgroup != nil {
		if err := b.enterCgroup(process.PID); err != nil {
			return err
		}
	}
	if err := limitProcess(process.PID, b.oci.Process.Rlimits); err != nil {
		return err
	}
	return send(process, message)
}

// limitProcess sets the resource limits of a process.
func limitProcess(pid int, limits []specs.POSIXRlimit) error {
	for _, l := range limits {
		limit := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(pid, rlimitNumbers[strings.TrimPrefix(l.Type, "RLIMIT_")], &limit, nil); err != nil {
			return fmt.Errorf("setting the limit %s: %w", strings.ToLower(l.Type), os.NewSyscallError("prlimit", err))
		}
	}
	return nil
}

// send gives a process its calls.
func send(process *initproc.First, message []byte) error {
	if err := process.Send(message); err != nil {
		return fmt.Errorf("starting the container: %w", errors.Join(process.Executed(), err)) // it has ended, and may tell why
	}
	return nil
}

func (b *bundle) exitError(ws unix.WaitStatus) error {
	e := &ExitError{Code: ws.ExitStatus(), MemoryLimit: b.spec.Resources.Memory}
	if b.cgroup != nil {
		kills, err := b.cgroup.OOMKillCount()
		e.OOM = err == nil && kills > 0
	}
	if ws.Signaled() {
		e.Signal = int(ws.Signal())
		e.Code = 128 + e.Signal
	}
	return e
}

// startError makes one sentence of how a call failed.
func startError(spec *Spec, calls *initproc.Calls, err error) error {
	var failed *initproc.Failed
	if !errors.As(err, &failed) {
		return err
	}
	call := calls.Call(failed.Call)
	if call.What != execWhat {
		return fmt.Errorf("starting the container: %s: %w", call.What, failed.Errno)
	}
	switch failed.Errno {
	case unix.ENOENT, unix.ENOTDIR:
		return commandNotFound(spec.Args[0])
	case unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG:
		if !strings.Contains(spec.Args[0], "/") {
			return commandNotFound(spec.Args[0])
		}
	}
	return fmt.Errorf("starting %q: %w: %w", spec.Args[0], ErrCommandNotExecutable, failed.Errno)
}

func commandNotFound(command string) error {
	return fmt.Errorf("starting %q: %w in the root filesystem", command, ErrCommandNotFound)
}
