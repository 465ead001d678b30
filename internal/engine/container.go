package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/system"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// ContainerOptions say what a [Container] is.
type ContainerOptions struct {
	// Mounts are as those of an exec, the root filesystem among them. What they write is kept nowhere.
	Mounts []ContainerMount
	// Files are more mounts, which no graph has.
	Files      []sandbox.Mount
	Network    pb.NetMode
	Hostname   string
	ExtraHosts []*pb.HostIP
	Platform   *pb.Platform // nil is the run's
}

// ContainerMount is a mount of a container, whose inputs and outputs have no meaning, and what it shows: a result, which is
// evaluated, an input of a process that failed, or what a mount of such a process showed at its end.
type ContainerMount struct {
	*pb.Mount
	Edge   graph.Edge
	Input  *Value
	Failed *FailedMount
}

// ContainerProcess is a process that a container is to run.
type ContainerProcess struct {
	Args, Env []string
	SecretEnv []*pb.SecretEnv
	Cwd, User string
	Terminal  bool
	Security  pb.SecurityMode
	Streams   sandbox.IO // Signals, Resize and Started do not count
}

// Container is a place for processes that are no steps: a frontend's, or those that a frontend asks for. The first process
// that is started is the container's first one, and the others end with it. It ends with its run, and must be closed.
type Container struct {
	x      *execution
	mounts []*pb.Mount // as they were asked for
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	first   *Running
	closed  bool
	running sync.WaitGroup
	failed  firstError
}

// NewContainer evaluates what a container shows and prepares its mounts.
func (r *Run) NewContainer(ctx context.Context, opt ContainerOptions) (_ *Container, err error) {
	op := &pb.ExecOp{Network: opt.Network, Meta: &pb.Meta{Cwd: "/", Hostname: opt.Hostname, ExtraHosts: opt.ExtraHosts}}
	n := &node{run: r, v: &graph.Vertex{
		Digest: digest.FromString(rand.Text()), Op: &pb.Op{Platform: opt.Platform, Op: &pb.Op_Exec{Exec: op}}, Meta: &pb.OpMetadata{},
	}}
	for _, m := range opt.Mounts {
		pm := m.Mount.CloneVT()
		pm.Input, pm.Output = int64(pb.Empty), int64(pb.SkipOutput)
		if m.Edge.Vertex != nil {
			pm.Input = int64(len(n.inputs))
			n.inputs = append(n.inputs, edge{r.node(m.Edge.Vertex), m.Edge.Index})
			r.seen(m.Edge)
		}
		op.Mounts = append(op.Mounts, pm)
	}
	if !slices.ContainsFunc(op.Mounts, func(m *pb.Mount) bool { return m.Dest == pb.RootMount }) {
		return nil, errors.New("root mount is required")
	}
	inputs, err := r.containerInputs(ctx, n)
	if err != nil {
		return nil, err
	}
	c := &Container{mounts: op.Mounts}
	c.ctx, c.cancel = context.WithCancelCause(r.life)
	c.x = &execution{
		r: r, ctx: c.ctx, op: op, inputs: inputs, outputs: map[int64]execOutput{}, mounts: map[int]FailedMount{}, caches: map[string]*store.Cache{},
		lower: map[*pb.Mount][]string{},
	}
	for i, m := range opt.Mounts {
		pm := op.Mounts[i]
		switch {
		case pm.MountType != pb.MountType_BIND: // a cache is what it is
		case m.Failed != nil:
			c.x.lower[pm] = m.Failed.Lower
			if m.Failed.Upper != "" {
				c.x.lower[pm] = append(slices.Clone(m.Failed.Lower), m.Failed.Upper)
			}
		case m.Input != nil:
			pm.Input = int64(len(c.x.inputs))
			c.x.inputs = append(c.x.inputs, *m.Input)
		}
	}
	waits := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	err = c.x.prepare(n)
	if !waits() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.x.spec.Mounts = append(c.x.spec.Mounts, opt.Files...)
	c.x.spec.Waits = true
	return c, nil
}

// containerInputs evaluates what a container shows.
func (r *Run) containerInputs(ctx context.Context, n *node) ([]Value, error) {
	ctx, end := r.begin(ctx)
	defer end()
	values, _, err := r.inputs(ctx, n, false)
	return values, err
}

// Running is a process of a container.
type Running struct {
	cancel  context.CancelCauseFunc
	signals chan int
	sizes   chan sandbox.WinSize
	done    chan struct{}
	err     error // once it is done
}

// Start starts a process and returns when it runs, or when it is known that it does not. ctx ends the wait alone.
func (c *Container) Start(ctx context.Context, p ContainerProcess) (*Running, error) {
	r := c.x.r
	if err := r.permitExec(&pb.ExecOp{Network: c.x.op.Network, Security: p.Security}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("container is closed")
	}
	env, err := c.environment(p)
	if err != nil {
		return nil, err
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	run := &Running{signals: make(chan int), sizes: make(chan sandbox.WinSize), done: make(chan struct{})}
	started := make(chan struct{})
	streams := p.Streams
	streams.Signals, streams.Resize, streams.Started = run.signals, run.sizes, func() { close(started) }
	var life context.Context
	life, run.cancel = context.WithCancelCause(c.ctx)
	start := c.further(p, env)
	if c.first == nil {
		start = c.firstOf(p, env)
		c.first = run
	}
	leave, ok := r.crew.enter()
	if !ok {
		return nil, errOver
	}
	c.running.Add(1)
	go func() {
		defer leave()
		defer c.running.Done()
		defer close(run.done)
		defer run.cancel(errOver)
		run.err = start(life, streams)
		c.failed.note(run.err)
	}()
	select {
	case <-started:
	case <-run.done:
	case <-ctx.Done():
		run.cancel(context.Cause(ctx))
		<-run.done
		return nil, context.Cause(ctx)
	}
	return run, nil
}

// environment is that of a process with the secrets in it.
func (c *Container) environment(p ContainerProcess) ([]string, error) {
	env := slices.Clone(p.Env)
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		env = append(env, "PATH="+system.DefaultPathEnv(c.x.platform.OS))
	}
	for _, s := range p.SecretEnv {
		if s.GetID() == "" {
			return nil, fmt.Errorf("secret ID missing for %q environment variable", s.GetName())
		}
		value, err := c.x.secret(s.ID)
		if err != nil && !(errdefs.IsNotFound(err) && s.Optional) {
			return nil, err
		}
		env = append(env, s.Name+"="+string(value))
	}
	return env, nil
}

// firstOf runs the container's first process.
func (c *Container) firstOf(p ContainerProcess, env []string) func(context.Context, sandbox.IO) error {
	spec := c.x.spec
	spec.Args, spec.Env, spec.Cwd, spec.User, spec.Terminal = p.Args, env, p.Cwd, p.User, p.Terminal
	if p.Security == pb.SecurityMode_INSECURE {
		spec.Insecure, spec.KeepCaps, spec.AppArmor, spec.UserNS = true, true, "", false
	}
	return func(ctx context.Context, streams sandbox.IO) error {
		return foreign(c.x.platform, c.x.r.Engine.opt.Runner.Run(ctx, &spec, streams))
	}
}

// further runs one more process.
func (c *Container) further(p ContainerProcess, env []string) func(context.Context, sandbox.IO) error {
	process := &sandbox.Process{
		Args: p.Args, Env: env, Cwd: p.Cwd, User: p.User, Terminal: p.Terminal, Privileged: p.Security == pb.SecurityMode_INSECURE,
	}
	return func(ctx context.Context, streams sandbox.IO) error {
		return c.x.r.Engine.opt.Runner.Exec(ctx, c.x.spec.ID, process, streams)
	}
}

// Wait gives how the process ended, as [sandbox.Runner] does.
func (r *Running) Wait() error {
	<-r.done
	return r.err
}

// Done is closed when the process has ended.
func (r *Running) Done() <-chan struct{} { return r.done }

// Kill ends the process; of the first one of a container, all of it.
func (r *Running) Kill() { r.cancel(context.Canceled) }

// Signal sends a signal to the process if it still runs.
func (r *Running) Signal(ctx context.Context, sig unix.Signal) { tell(ctx, r, r.signals, int(sig)) }

// Resize sets the size of the process's terminal.
func (r *Running) Resize(ctx context.Context, size sandbox.WinSize) { tell(ctx, r, r.sizes, size) }

func tell[T any](ctx context.Context, r *Running, to chan<- T, what T) {
	select {
	case to <- what:
	case <-r.done:
	case <-ctx.Done():
	}
}

// Tree is what is at a mount, by its number, now: processes may change it at the same time. Of the root it is what is below
// all mounts. What is in memory alone has none.
func (c *Container) Tree(mount int) (layer.Tree, error) {
	if mount < 0 || mount >= len(c.mounts) {
		return nil, fmt.Errorf("mount index %d is out of bounds (%d available)", mount, len(c.mounts))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("container is closed")
	}
	m := c.mounts[mount]
	root, bind := &c.x.spec.Root, ""
	if m.Dest != pb.RootMount {
		dest := c.x.dest(m)
		i := slices.IndexFunc(c.x.spec.Mounts, func(s sandbox.Mount) bool { return s.Dest == dest })
		if i < 0 {
			return nil, fmt.Errorf("mountable %d not found", mount)
		}
		root, bind = c.x.spec.Mounts[i].Root, c.x.spec.Mounts[i].Bind
	}
	switch {
	case bind != "":
		return c.x.r.Engine.opt.Store.OpenDir(bind, layer.DirOptions{Live: true}), nil
	case root == nil:
		return nil, fmt.Errorf("reading the files of mount %s, a %s, is not supported", m.Dest, m.MountType)
	}
	var trees []layer.Tree
	for _, dir := range root.Lower {
		trees = append(trees, c.x.r.Engine.opt.Store.OpenDir(dir, layer.DirOptions{Overlay: true, Immutable: true}))
	}
	if root.Upper != "" {
		trees = append(trees, c.x.r.Engine.opt.Store.OpenDir(root.Upper, layer.DirOptions{Overlay: true, Live: true}))
	}
	return layer.Merged(trees), nil
}

// errReleased is how processes end that run when their container is closed.
var errReleased = fmt.Errorf("the container was released: %w", context.Canceled)

// Close ends all processes and gives back what they had. The error is that of the process which failed first, as BuildKit has it.
func (c *Container) Close() error {
	c.cancel(errReleased)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.running.Wait()
		c.x.close()
	}
	return c.failed.first()
}

// firstError is the one that was noted first.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (f *firstError) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *firstError) first() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
