package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/slipway-build/slipway/internal/sandbox/initproc"
	"golang.org/x/sys/unix"
)

// Process is one more process of a container that runs. It has the container's namespaces, limits and rules; what is not
// named here is as in the container's [Spec].
type Process struct {
	Args     []string // Args[0] is looked up in the PATH of Env
	Env      []string // KEY=VALUE; HOME, and PATH when missing, are supplied
	Cwd      string   // absolute; it exists
	User     string   // as in Spec
	Groups   []string // as in Spec
	Terminal bool     // allocate a pseudo-terminal and join it to Stdin/Stdout
	Size     WinSize  // as in Spec
	// Privileged: it has all capabilities and no seccomp filter. What is mounted, hidden and guarded stays.
	Privileged bool
}

// ErrNotRunning says that there is no container with an id whose first process runs.
var ErrNotRunning = errors.New("the container is not running")

// execDrain is how long output of a process is waited for that has ended, while others of its container hold its streams and print nothing.
const execDrain = 2 * time.Second

// Exec implements [Runner].
func (r *runner) Exec(ctx context.Context, id string, p *Process, streams IO) error {
	switch {
	case len(p.Args) == 0:
		return errors.New("running a process: no command given")
	case p.Cwd != "" && !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("running a process: working directory %q is not absolute", p.Cwd)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	err := r.exec(ctx, id, p, streams)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// containers are those that a runner runs, by their ids.
type containers struct {
	mu  sync.Mutex
	all map[string]*running
}

// running is a container whose first process has been started.
type running struct {
	b     *bundle
	pid   int
	pidfd int

	mu    sync.Mutex
	over  bool
	execs sync.WaitGroup
}

// add makes a container known. Its end is to be told.
func (c *containers) add(b *bundle, first *initproc.First) *running {
	r := &running{b: b, pid: first.PID, pidfd: first.PidFD}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]*running{}
	}
	c.all[b.spec.ID] = r
	return r
}

// end forgets a container whose processes have ended, and waits for those who use it.
func (c *containers) end(r *running) {
	c.mu.Lock()
	if c.all[r.b.spec.ID] == r {
		delete(c.all, r.b.spec.ID)
	}
	c.mu.Unlock()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.execs.Wait()
}

// enter finds a container and keeps it as it is until leave is called.
func (c *containers) enter(id string) (r *running, leave func(), err error) {
	c.mu.Lock()
	r = c.all[id]
	c.mu.Unlock()
	if r == nil {
		return nil, nil, fmt.Errorf("running a process in %s: %w", id, ErrNotRunning)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, nil, fmt.Errorf("running a process in %s: %w", id, ErrNotRunning)
	}
	r.execs.Add(1)
	return r, r.execs.Done, nil
}

// exec implements runner.exec.
func (l *linked) exec(ctx context.Context, id string, p *Process, streams IO) error {
	r, leave, err := l.containers.enter(id)
	if err != nil {
		return err
	}
	defer leave()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: what it starts is in the container's PID namespace, and ends with it
		done <- l.execIn(ctx, r, p, streams)
	}()
	return <-done
}

// execIn runs a process in a container, on a thread of its own.
func (l *linked) execIn(ctx context.Context, r *running, p *Process, streams IO) (err error) {
	b, err := r.bundleFor(p)
	if err != nil {
		return err
	}
	wires, err := wire(p.Terminal, streams, true)
	if err != nil {
		return err
	}
	defer wires.close()
	if err := wires.give(b.ids); err != nil {
		return err
	}
	back, err := joinGuards(b.spec.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	process, err := l.startIn(ctx, r, b, wires)
	if errors.Is(err, unix.ECONNRESET) { // killed before it said anything, as what is in a container that ends
		err = fmt.Errorf("starting the process: it was killed: %w", err)
	}
	if err != nil {
		return err
	}
	if streams.Started != nil {
		streams.Started()
	}
	stop := forward(ctx, streams, wires, func(sig unix.Signal) {
		_ = unix.PidfdSendSignal(process.PidFD, sig, nil, 0) // the process may be gone
	})
	ws, err := process.Wait(stop)
	streams.used(process.PID, &process.Usage)
	draining, cancel := wires.untilSilent(ctx, execDrain)
	defer cancel()
	wires.drain(draining)
	switch {
	case err != nil:
		return fmt.Errorf("waiting for the process: %w", err)
	case ws.Exited() && ws.ExitStatus() == 0:
		return nil
	}
	return b.exitError(ws)
}

// in is a container's spec with the process in the place of its first one.
func (p *Process) in(container *Spec) Spec {
	spec := *container
	spec.Args, spec.Env, spec.Cwd, spec.User, spec.Groups, spec.Terminal, spec.Size = p.Args, p.Env, p.Cwd, p.User, p.Groups, p.Terminal, p.Size
	return spec
}

// bundleFor is the container's bundle with a process that takes the place of the first one.
func (r *running) bundleFor(p *Process) (*bundle, error) {
	spec := p.in(r.b.spec)
	if p.Privileged && !spec.Insecure {
		if spec.UserNS {
			return nil, errors.New("running a process: privileged mode is incompatible with user namespaces")
		}
		spec.Insecure, spec.KeepCaps = true, true
	}
	u, err := r.lookupUser(&spec)
	if err != nil {
		return nil, err
	}
	process, err := ociProcess(&spec, u)
	if err != nil {
		return nil, err
	}
	linux := *r.b.oci.Linux
	if spec.Insecure && !spec.ownSeccomp() {
		linux.Seccomp = nil
	}
	return &bundle{
		spec: &spec, ids: r.b.ids, owned: r.b.owned, cgroup: r.b.cgroup, ownDev: true,
		oci: &specs.Spec{Process: process, Linux: &linux},
	}, nil
}

// lookupUser finds a user in the container's root filesystem as its processes see it.
func (r *running) lookupUser(spec *Spec) (*user.ExecUser, error) {
	root, err := openRoot(fmt.Sprintf("/proc/%d/root", r.pid))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer root.Close()
	// The number may be another process's by now, but not if the first one is still there.
	if err := unix.PidfdSendSignal(r.pidfd, 0, nil, 0); err != nil {
		return nil, fmt.Errorf("running a process in %s: %w", spec.ID, ErrNotRunning)
	}
	u, err := lookupUser(root, spec.User)
	if err == nil {
		err = addGroups(root, u, spec.Groups)
	}
	return u, err
}

// startIn starts a process in the container's namespaces and has it execute the wanted program.
func (l *linked) startIn(ctx context.Context, r *running, b *bundle, w *wires) (*initproc.First, error) {
	filter, err := l.filterOf(b)
	if err != nil {
		return nil, err
	}
	for i, f := range w.ends {
		b.given[i] = f != nil
	}
	calls, err := b.callsIn(filter)
	if err != nil {
		return nil, err
	}
	message, err := calls.Message()
	if err != nil {
		return nil, fmt.Errorf("starting the process: %w", err)
	}
	// Processes that this thread starts are the container's. Everything else the process itself enters: what a thread of
	// slipway has entered, a process of the container could look into.
	if err := unix.Setns(r.pidfd, unix.CLONE_NEWPID); err != nil {
		return nil, enteringError(err)
	}
	process, err := startWith(w.ends, "/dev/null", 0)
	w.started()
	if err != nil {
		return nil, fmt.Errorf("starting the process: %w", err)
	}
	return process, l.launch(ctx, launching{b, process, &calls.Calls, w}, func() error {
		if b.cgroup != nil {
			if err := b.cgroup.Apply(process.PID); err != nil {
				return limiting(err)
			}
		}
		if err := limitProcess(process.PID, b.oci.Process.Rlimits); err != nil {
			return err
		}
		return send(process, message)
	})
}

func enteringError(err error) error {
	switch {
	case errors.Is(err, unix.ESRCH):
		return ErrNotRunning
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("entering the container: %w (this needs Linux 5.8)", err)
	}
	return fmt.Errorf("entering the container: %w", os.NewSyscallError("setns", err))
}

// joinGuards moves the calling thread into the guard's cgroups of a run that there are; back takes it out of them.
func joinGuards(id string) (back func() error, err error) {
	var all []joined
	back = func() error {
		var errs []error
		for _, j := range slices.Backward(all) {
			errs = append(errs, j.back())
		}
		return errors.Join(errs...)
	}
	for _, parent := range []string{devicesCgroup(), ownCgroupOf("pids"), unifiedCgroup()} {
		j := joined{dir: filepath.Join(parent, guardPrefix+id), parent: parent}
		if parent == "" || slices.Contains(all, j) {
			continue
		}
		if _, err := os.Lstat(j.dir); err != nil {
			continue // the run has no guard there
		}
		if err := writeCgroup(filepath.Join(j.dir, j.threads()), "0"); err != nil {
			return nil, errors.Join(fmt.Errorf("entering the container's cgroup: %w", err), back())
		}
		all = append(all, j)
	}
	return back, nil
}

// entered are the namespaces that a container has of its own, without those of IDs and processes. The others are the
// host's, which nobody but its root may enter, not even who is there.
func (b *bundle) entered() int {
	namespaces := unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
	if b.spec.Network != NetworkHost {
		namespaces |= unix.CLONE_NEWNET
	}
	if b.hasCgroupView() {
		namespaces |= unix.CLONE_NEWCGROUP
	}
	return namespaces
}

// callsIn are the calls of a process that enters a container in which others run, and becomes what the bundle's process is
// to be.
func (b *bundle) callsIn(filter []byte) (*inside, error) {
	in := &inside{b: b, trees: map[string]*initproc.Call{}}
	p := b.oci.Process
	// It has more rights than those who see it from now on. Who may trace it all the same, with CAP_SYS_PTRACE, could have them.
	in.Add("hiding from the container", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	if p.ApparmorProfile != "" { // of the host's /proc: in the container it may be anything
		proc := in.Add("opening /proc", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
		in.appArmor(proc, p.ApparmorProfile)
		in.Add("closing /proc", unix.SYS_CLOSE, proc)
	}
	in.keepProc()
	const what = "entering the container"
	first := in.Add(what, unix.SYS_PIDFD_OPEN, 1, 0)
	in.Add(what, unix.SYS_SETNS, first, b.entered())
	if b.hasUserNS() { // last: the network's is not the user namespace's
		in.Add(what, unix.SYS_SETNS, first, unix.CLONE_NEWUSER)
		in.Add(what, unix.SYS_SETRESGID, 0, 0, 0)
		in.Add(what, unix.SYS_SETRESUID, 0, 0, 0)
	}
	in.Add(what, unix.SYS_CLOSE, first)
	in.Add("starting a session", unix.SYS_SETSID)
	in.signals()
	in.keyring()
	in.Add("setting the umask", unix.SYS_UMASK, 0o022)
	in.streams()
	return in, in.become(p, filter)
}
