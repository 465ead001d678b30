package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// linked executes bundles with the libcontainer in this program.
type linked struct {
	filter func() ([]byte, error) // gives the compiled seccomp filter
	cover  *cover                 // may be nil
}

// prepare begins with what the first run needs. The function that it returns waits for the end.
func (l *linked) prepare() (wait func()) {
	var all sync.WaitGroup
	all.Go(func() { _, _ = l.filter() }) // whoever needs it gets the error
	all.Go(func() { _ = watchdog.start(l.cover.program()) })
	return all.Wait
}

// guard implements runner.guard. A container with a cgroup gets its rules and limits from libcontainer.
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
func (l *linked) run(ctx context.Context, b *bundle, streams IO) error {
	l.cover.mount(b)
	if err := b.uncover(); err != nil {
		return err
	}
	container, err := create(b)
	if err != nil {
		return err
	}
	err = l.runProcess(ctx, container, b, streams)
	if !b.spec.hasCgroup() {
		return err // all that the container still has goes with the scratch directory
	}
	if derr := container.Destroy(); derr != nil && err == nil {
		err = fmt.Errorf("cleaning up container: %w", derr)
	}
	return err
}

// create makes a container that is not started yet.
func create(b *bundle) (*libcontainer.Container, error) {
	// The seccomp filter comes through a gate.
	spec, linux := *b.oci, *b.oci.Linux
	spec.Linux, linux.Seccomp = &linux, nil
	if ownView() && recursiveAttributes() && !cgroupNamespaces() && !b.spec.hasCgroup() {
		// Its cgroups are mounted already, where a namespace makes it see no more than what is there.
		linux.Namespaces = append(slices.Clone(linux.Namespaces), specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: b.spec.ID, Spec: &spec})
	if err != nil {
		return nil, fmt.Errorf("configuring container: %w", err)
	}
	// The thread that starts the first process waits for it: if that is gone, so are we.
	config.ParentDeathSignal = int(unix.SIGKILL)
	// Without rules for devices libcontainer leaves them alone.
	if !b.guarded {
		config.Cgroups.Resources.Devices = nil
	}
	if !b.spec.Insecure && (recursiveAttributes() || !b.nodesInDev()) {
		config.Devices = nil // they are there
	}
	if !b.spec.hasCgroup() {
		// It gets none, see below. With an absolute path libcontainer does not look for our own
		// in all hierarchies.
		config.Cgroups.Name, config.Cgroups.Path = "", "/"+b.spec.ID
	}
	container, err := libcontainer.Create(b.stateDir(), b.spec.ID, config)
	if err != nil {
		return nil, fmt.Errorf("creating container: %w", err)
	}
	if !b.spec.hasCgroup() {
		withoutCgroup(container, config.Cgroups)
	}
	return container, nil
}

// runProcess starts the container and waits for its end.
func (l *linked) runProcess(ctx context.Context, container *libcontainer.Container, b *bundle, streams IO) (err error) {
	p := initProcess(b.oci.Process)
	wires, err := wire(b.spec.Terminal, streams, p)
	if err != nil {
		return err
	}
	defer wires.close()
	if err := wires.give(b.ids); err != nil {
		return err
	}
	err = l.start(container, p, b, wires)
	if err != nil {
		return startError(b.spec, err)
	}
	stop := forward(ctx, streams, wires, func(sig unix.Signal) { _ = p.Signal(sig) }) // the process may be gone
	state, err := p.Wait()
	stop()
	wires.drain(ctx)
	if state == nil {
		return fmt.Errorf("waiting for the process: %w", err)
	}
	if state.Success() {
		return nil
	}
	return exitError(state, container, b.spec)
}

// filterOf compiles the bundle's seccomp profile; the default one was compiled before.
func (l *linked) filterOf(b *bundle) ([]byte, error) {
	if b.spec.tweaked() {
		return compileFilter(b.oci.Linux.Seccomp)
	}
	return l.filter()
}

// start starts the container's first process, gives it its seccomp filter, and lets it execute
// the wanted program.
func (l *linked) start(container *libcontainer.Container, p *libcontainer.Process, b *bundle, w *wires) error {
	gate, inner, err := utils.NewSockPair("gate")
	if err != nil {
		w.started(false)
		return fmt.Errorf("making the seccomp socket: %w", err)
	}
	defer gate.Close()
	if b.oci.Linux.Seccomp != nil {
		p.ExtraFiles = []*os.File{inner}
	}
	err = container.Start(p)
	_ = inner.Close()
	w.started(err == nil)
	if err != nil {
		return err
	}
	if b.oci.Linux.Seccomp != nil {
		var filter []byte
		if filter, err = l.filterOf(b); err == nil {
			err = initproc.PassGate(gate, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, filter)
		}
	}
	if err == nil {
		err = execute(b, p, l.cover.program())
	}
	if err != nil {
		_ = p.Signal(unix.SIGKILL) // it may be dead already, which is the error then
		_, _ = p.Wait()
	}
	return err
}

// execute lets a started container go: its first process waits until somebody reads from a
// named pipe in its state directory. libcontainer's own Exec does that on any thread, but only
// this one sees the directory.
func execute(b *bundle, p *libcontainer.Process, program string) error {
	path := filepath.Join(b.stateDir(), b.spec.ID, "exec.fifo")
	fifo, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fifo)
	pid, err := p.Pid()
	if err != nil {
		return fmt.Errorf("finding the container's process: %w", err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watching the container's process: %w", os.NewSyscallError("pidfd_open", err))
	}
	defer unix.Close(process)
	if err := watchdog.watch(process, program); err != nil {
		return err
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}, {Fd: int32(process), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for the container: %w", os.NewSyscallError("poll", err))
		}
		var ready [1]byte
		if n, _ := unix.Read(fifo, ready[:]); n == 1 {
			return os.Remove(path) // which tells libcontainer that the container runs
		}
		if fds[1].Revents != 0 {
			return errors.New("the container's process died before it executed its program")
		}
	}
}

func exitError(state *os.ProcessState, container *libcontainer.Container, spec *Spec) error {
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return fmt.Errorf("reading the exit status: unexpected type %T", state.Sys())
	}
	e := &ExitError{Code: ws.ExitStatus(), OOM: oomKills(container) > 0, MemoryLimit: spec.Resources.Memory}
	if ws.Signaled() {
		e.Signal = int(ws.Signal())
		e.Code = 128 + e.Signal
	}
	return e
}

// initProcess is the process of an OCI spec in libcontainer's words.
func initProcess(p *specs.Process) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, Init: true,
		UID: int(p.User.UID), GID: int(p.User.GID),
		AppArmorProfile: p.ApparmorProfile,
		LogLevel:        "2", // errors only; they become part of the returned error
	}
	for _, gid := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(gid))
	}
	for _, l := range p.Rlimits {
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{
			Type: rlimitNumbers[strings.TrimPrefix(l.Type, "RLIMIT_")], Hard: l.Hard, Soft: l.Soft,
		})
	}
	return lp
}

// startError makes one sentence of the reasons of a runtime, which come as text from another
// process.
func startError(spec *Spec, err error) error {
	text, command := err.Error(), spec.Args[0]
	switch {
	case spec.hasCgroup() && strings.Contains(text, "cgroup"):
		return fmt.Errorf("limiting the container's resources: %w (limits and --cgroup-parent need cgroups that can be written to)", errors.New(trimPrefixes(text)))
	case strings.Contains(text, "executable file not found"),
		strings.Contains(text, "exec") && strings.Contains(text, "no such file or directory") && !strings.Contains(text, "mount"):
		return fmt.Errorf("starting %q: %w in the root filesystem", command, ErrCommandNotFound)
	case strings.Contains(text, "permission denied") && strings.Contains(text, "exec"),
		strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		return fmt.Errorf("starting %q: %w: %s", command, ErrCommandNotExecutable, lastClause(text))
	}
	return fmt.Errorf("starting the container: %w", errors.New(trimPrefixes(text)))
}

// trimPrefixes removes the layers of wrapping that say nothing to a user.
func trimPrefixes(text string) string {
	prefixes := []string{"unable to start container process: ", "error during container init: "}
	for slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(text, p) }) {
		for _, p := range prefixes {
			text = strings.TrimPrefix(text, p)
		}
	}
	return text
}

func lastClause(text string) string {
	parts := strings.Split(text, ": ")
	return parts[len(parts)-1]
}
