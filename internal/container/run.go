package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
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

// RunAs is [Manager.Run] with another config than the container's own, which need not be recorded, and with what a failed step is given.
func (m *Manager) RunAs(ctx context.Context, c store.Container, config *Config, given Given, streams sandbox.IO) error {
	lock, err := m.lock(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("running container %s: %w", c.Name, err)
	}
	defer lock.Close()
	if config.Step != nil {
		if c, err = m.Store.Container(ctx, c.ID); err != nil { // a newer build may have been faster
			return err
		}
	}
	// From now on it counts as running, by this process.
	state := State{PID: os.Getpid(), Started: time.Now()}
	if err := m.saveState(c.ID, state); err != nil {
		return err
	}
	spec, hidden, release, err := m.prepare(ctx, c, config, given)
	if err != nil {
		err = fmt.Errorf("running container %s: %w", c.Name, err)
	} else {
		defer release()
		defer hide(&streams, config, hidden)()
		if !config.OpenStdin {
			streams.Stdin = nil
		}
		err = m.runAlone(ctx, spec, streams)
	}
	state.Finished = time.Now()
	state.ended(err)
	if serr := m.saveState(c.ID, state); err == nil {
		err = serr
	}
	return err
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
	b := &below{inbound: &inbound{DirWriter: w, ctx: ctx, upper: m.upper(c.ID), tree: tree}, made: map[string]bool{}}
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
		Hostname: c.Hostname, HostnameFile: true, Network: c.Network, ExtraHosts: c.ExtraHosts, Ulimits: c.Ulimits,
		ShmSize: c.ShmSize, Insecure: c.Privileged, Terminal: c.Terminal,
		CapAdd: c.CapAdd, CapDrop: c.CapDrop, AppArmor: c.AppArmor, UserNS: c.UserNS, Groups: c.Groups, CgroupPath: c.CgroupParent, Resources: c.Resources,
	}
}
