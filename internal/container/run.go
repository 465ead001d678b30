package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/store"
)

// Run runs a container in the foreground. It returns as [sandbox.Runner] does; a container that
// runs already is [ErrRunning].
func (m *Manager) Run(ctx context.Context, c store.Container, streams sandbox.IO) error {
	config, err := ReadConfig(c)
	if err != nil {
		return err
	}
	return m.RunAs(ctx, c, config, Given{}, streams)
}

// RunAs is [Manager.Run] with another config than the container's own, which need not be recorded, and with what a failed step is given. Others are served meanwhile,
// but of a failed step.
func (m *Manager) RunAs(ctx context.Context, c store.Container, config *Config, given Given, streams sandbox.IO) error {
	h := &hosting{}
	if config.Step == nil {
		var err error
		if h, err = m.hosts(c, config, nil); err != nil { // it runs all the same
			h = &hosting{}
			if !errors.Is(err, errHosted) && streams.Notice != nil {
				streams.Notice(fmt.Sprintf("logs, exec and attach do not reach the container: %v", err))
			}
		}
	}
	return m.run(ctx, c, config, given, streams, h, func(error) {})
}

// run is [Manager.RunAs], serving others by h, which it ends. failed is told at once of why the container could not be run.
func (m *Manager) run(ctx context.Context, c store.Container, config *Config, given Given, streams sandbox.IO, h *hosting, failed func(error)) (err error) {
	var state State
	defer func() { h.end(state) }() // last: the container does not count as running any more then
	defer func() {
		if err != nil {
			failed(err)
		}
	}()
	lock, err := m.lock(ctx, c.ID)
	if err != nil {
		state.ended(err)
		return fmt.Errorf("running container %s: %w", c.Name, err)
	}
	defer lock.Close()
	c, config, err = m.begins(ctx, c, config, lock, &state)
	if err != nil {
		return err
	}
	err = m.runLocked(ctx, c, config, given, streams, h)
	h.flush() // whoever follows the log reads it to its end when the container does not count as running
	state.Finished = time.Now()
	state.ended(err)
	if serr := m.saveState(c.ID, lock, state); err == nil {
		err = serr
	}
	m.tellDeath(c, state)
	return err
}

// begins has a container that this process has locked count as running by it, and returns what the container is now: its name and its networks may be others.
func (m *Manager) begins(ctx context.Context, c store.Container, config *Config, lock *os.File, state *State) (now store.Container, with *Config, err error) {
	release, err := m.LockNetworks(ctx)
	if err != nil {
		return c, nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if now, err = m.Store.Container(ctx, c.ID); err != nil { // it may be gone
		return now, nil, err
	}
	with = config
	if config.Step == nil {
		own, err := ReadConfig(now)
		if err != nil {
			return now, nil, err
		}
		changed := *config
		changed.Network, changed.Joined = own.Network, own.Joined
		with = &changed
	}
	if err := m.HasNetworks(with); err != nil {
		state.ended(err)
		return now, nil, fmt.Errorf("running container %s: %w", now.Name, err)
	}
	*state = State{PID: os.Getpid(), Started: time.Now()}
	return now, with, m.saveState(now.ID, lock, *state)
}

// tellDeath tells that a container has ended, by the name that it has now.
func (m *Manager) tellDeath(c store.Container, s State) {
	m.tell(m.renamed(c), "die", map[string]string{"exitCode": strconv.Itoa(s.Code()), "execDuration": strconv.Itoa(int(s.Finished.Sub(s.Started).Seconds()))})
}

// Settle notes and tells how a container has ended whose process was killed with the one that ran it. One that was to go when it has ended is removed, also where
// who ran it could not do that, and whoever waits for it. Any other one is left as it is.
func (m *Manager) Settle(ctx context.Context, c store.Container) error {
	s := m.State(c.ID)
	if s.Lost() {
		if err := m.noteLost(ctx, c); err != nil {
			return err
		}
	} else if s.Running || s.Finished.IsZero() || !goesAtEnd(c) {
		return nil
	}
	return m.removeWanted(context.WithoutCancel(ctx), c.ID)
}

// noteLost notes and tells how a container has ended, unless somebody else does.
func (m *Manager) noteLost(ctx context.Context, c store.Container) error {
	m, release, err := m.opened()
	if err != nil {
		return err
	}
	defer release()
	lock, err := m.lock(ctx, c.ID)
	if errors.Is(err, ErrRunning) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s := m.State(c.ID)
	if s.Running = false; !s.Lost() { // somebody was faster
		return lock.Close()
	}
	s.ExitCode, s.Finished = s.Code(), time.Now()
	err = m.saveState(c.ID, lock, s)
	m.tellDeath(c, s)
	return errors.Join(err, lock.Close())
}

// runLocked runs a container that this process has locked.
func (m *Manager) runLocked(ctx context.Context, c store.Container, config *Config, given Given, streams sandbox.IO, h *hosting) error {
	spec, hidden, release, err := m.prepare(ctx, c, config, given)
	if err != nil {
		return fmt.Errorf("running container %s: %w", c.Name, err)
	}
	defer release()
	if !config.OpenStdin {
		streams.Stdin = nil
	}
	if h.Host != nil {
		streams = h.Streams(streams)
	}
	defer hide(&streams, config, hidden)()
	started := streams.Started
	streams.Started = func() {
		m.tell(m.renamed(c), "start", nil)
		if started != nil {
			started()
		}
	}
	return m.runAlone(ctx, spec, streams)
}

// ended notes how the container ended.
func (s *State) ended(err error) {
	var exit *sandbox.ExitError
	switch {
	case errors.As(err, &exit):
		s.ExitCode, s.OOM = exit.Code, exit.OOM
	case errors.Is(err, sandbox.ErrCommandNotFound):
		s.ExitCode, s.Error = 127, err.Error()
	case errors.Is(err, sandbox.ErrCommandNotExecutable):
		s.ExitCode, s.Error = 126, err.Error()
	case err != nil:
		s.ExitCode, s.Error = 128, err.Error()
	}
}

// newWork makes a scratch directory of overlayfs, which wants it empty.
func newWork(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) }

// hide hides secrets in what a container prints, as in a build, unless it has a terminal: what is typed there would stand behind what is held
// back. flush must be called at the end.
func hide(streams *sandbox.IO, config *Config, hidden [][]byte) (flush func()) {
	flush = func() {}
	if config.Terminal || len(hidden) == 0 {
		return flush
	}
	one := streams.Stdout == streams.Stderr
	if streams.Stdout != nil {
		streams.Stdout, flush = secrets.Redact(streams.Stdout, hidden)
	}
	if one {
		streams.Stderr = streams.Stdout
	} else if streams.Stderr != nil {
		var flushErr func()
		flushOut := flush
		streams.Stderr, flushErr = secrets.Redact(streams.Stderr, hidden)
		flush = func() { flushOut(); flushErr() }
	}
	return flush
}

// prepare makes everything ready that a container needs to run. hidden are the secrets that it has. release ends the use of it.
func (m *Manager) prepare(ctx context.Context, c store.Container, config *Config, given Given) (spec *sandbox.Spec, hidden [][]byte, release func(), err error) {
	root, err := m.root(ctx, c, config)
	if err != nil {
		return nil, nil, nil, err
	}
	spec, release = config.spec(c.ID, *root), func() {}
	if config.Step != nil {
		hidden, release, err = m.furnish(ctx, c.ID, config.Step, given, spec)
	}
	return spec, hidden, release, err
}

// root is the root filesystem of a container that is to run.
func (m *Manager) root(ctx context.Context, c store.Container, config *Config) (*sandbox.Root, error) {
	lower, err := m.Store.Dirs(ctx, c.Snapshot)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.Image, err)
	}
	if err := newWork(m.work(c.ID)); err != nil {
		return nil, err
	}
	root := sandbox.Root{Lower: lower, Upper: m.upper(c.ID), Work: m.work(c.ID)}
	if config.ReadOnly {
		// What was copied into the container is there, but nothing can be written.
		if err := m.makeCwd(ctx, c, config.Cwd); err != nil {
			return nil, fmt.Errorf("making the working directory: %w", err)
		}
		root = sandbox.Root{Lower: append(slices.Clone(lower), m.upper(c.ID))}
	}
	return &root, nil
}

// runAlone runs the process. Meanwhile others may delete what nothing needs: all that the process uses
// belongs to a recorded container.
func (m *Manager) runAlone(ctx context.Context, spec *sandbox.Spec, streams sandbox.IO) error {
	resume, err := m.Store.Yield()
	if err != nil {
		return err
	}
	err = m.Runner.Run(ctx, spec, streams)
	return errors.Join(err, resume())
}

// makeCwd makes a working directory that is missing in the container's own layer, for a root
// filesystem that the sandbox cannot write to. The container is locked.
func (m *Manager) makeCwd(ctx context.Context, c store.Container, dir string) error {
	tree, err := m.tree(ctx, c)
	if err != nil {
		return err
	}
	name, err := layer.Resolve(tree, dir, true)
	if err != nil {
		return err
	}
	if _, err := tree.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := m.Store.DirWriter(m.upper(c.ID))
	if err != nil {
		return err
	}
	b := &below{inbound: &inbound{DirWriter: w, ctx: ctx, upper: m.upper(c.ID), tree: tree, mounted: &mountedTree{Tree: tree}}, made: map[string]bool{}}
	return errors.Join(b.makeDirs(name), w.Close())
}

// spec says to the sandbox what the config says.
func (c *Config) spec(id string, root sandbox.Root) *sandbox.Spec {
	env := c.Env
	has := func(key string) bool {
		for _, kv := range env {
			if strings.HasPrefix(kv, key+"=") {
				return true
			}
		}
		return false
	}
	if !has("HOSTNAME") && c.Hostname != "" {
		env = append(env[:len(env):len(env)], "HOSTNAME="+c.Hostname)
	}
	if !has("TERM") && c.Terminal {
		env = append(env[:len(env):len(env)], "TERM=xterm")
	}
	return &sandbox.Spec{
		ID: id, Root: root, Mounts: c.Mounts, Args: c.Args, Env: env, Cwd: c.Cwd, User: c.User,
		Hostname: c.Hostname, Domainname: c.Domainname, Container: true, Network: c.Network, ExtraHosts: c.ExtraHosts, Ulimits: c.Ulimits,
		ShmSize: c.ShmSize, Insecure: c.Privileged, Terminal: c.Terminal, Size: c.Size,
		CapAdd: c.CapAdd, CapDrop: c.CapDrop, AppArmor: c.AppArmor, Seccomp: c.Seccomp, NoNewPrivileges: c.NoNewPrivileges, Sysctls: c.Sysctls, MaskedPaths: c.MaskedPaths, ReadonlyPaths: c.ReadonlyPaths, UserNS: c.UserNS, Groups: c.Groups, CgroupPath: c.CgroupParent, Resources: c.Resources,
	}
}
