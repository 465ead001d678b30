package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/sys/user"

	"github.com/slipway-build/slipway/internal/container/host"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// ExecOptions are a process that is to run in a container that runs. What is not set is as in the container.
type ExecOptions struct {
	Args, Env            []string // Env is added
	Cwd, User            string
	Terminal, Privileged bool
	Size                 sandbox.WinSize // of the terminal, unless another one is given when it is started
	Want                 host.Streams
}

// CreateExec notes a process that may be started in a running container, by its ID.
func (m *Manager) CreateExec(c store.Container, o ExecOptions) (*host.Exec, error) {
	config, err := ReadConfig(c)
	if err != nil {
		return nil, err
	}
	if !m.State(c.ID).Running {
		return nil, notRunning(c)
	}
	config.Terminal = o.Terminal
	spec := config.spec(c.ID, sandbox.Root{})
	p := sandbox.Process{Args: o.Args, Env: MergeEnv(spec.Env, o.Env), Cwd: config.Cwd, User: config.User, Groups: config.Groups, Terminal: o.Terminal, Size: o.Size, Privileged: o.Privileged}
	if o.Cwd != "" {
		p.Cwd = o.Cwd
	}
	if o.User != "" {
		p.User = o.User
	}
	e, err := host.Create(m.Store.ContainerDir(c.ID), host.ExecOptions{Process: p, Want: o.Want})
	return e, m.hostError(c, err)
}

// RunExec starts a process that was created, as [host.RunExec].
func (m *Manager) RunExec(c store.Container, id string, detach bool, size *sandbox.WinSize) (*host.Session, error) {
	s, err := host.RunExec(m.Store.ContainerDir(c.ID), id, detach, size)
	return s, m.hostError(c, err)
}

// InspectExec tells of a process that was created.
func (m *Manager) InspectExec(c store.Container, id string) (*host.Exec, error) {
	e, err := host.Inspect(m.Store.ContainerDir(c.ID), id)
	return e, m.hostError(c, err)
}

// Resize sets the size of the terminal of a container, or of a process in it if exec is not "".
func (m *Manager) Resize(c store.Container, exec string, size sandbox.WinSize) error {
	return m.hostError(c, host.Resize(m.Store.ContainerDir(c.ID), exec, size))
}

// ErrNotRunning marks a container that does not run, where it has to.
var ErrNotRunning = errors.New("container is not running")

// notRunningError is [ErrNotRunning] in Docker's words.
type notRunningError struct{ id string }

func (e notRunningError) Error() string        { return fmt.Sprintf("container %s is not running", e.id) }
func (e notRunningError) Is(target error) bool { return target == ErrNotRunning }

func notRunning(c store.Container) error { return notRunningError{c.ID} }

// hostError is the error of a request to who runs a container.
func (m *Manager) hostError(c store.Container, err error) error {
	switch {
	case errors.Is(err, host.ErrNone) && m.State(c.ID).Running:
		return fmt.Errorf("container %s is run by a process that serves nobody else", c.Name)
	case errors.Is(err, host.ErrNone), errors.Is(err, sandbox.ErrNotRunning):
		return notRunning(c)
	}
	return err
}

// ErrNoExec marks a process that was not created.
var ErrNoExec = host.ErrNoExec

// OfExec finds the container of a process by the process's ID.
func OfExec(id string) (containerID string, err error) {
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: %s", host.ErrNoExec, id)
	}
	return id[:32], nil
}

// KnowsUser reports why a container that runs has no such user, in the form of [sandbox.Spec.User], which is [ErrInvalid]. Where its files cannot be read, and of
// numbers, that shows when a process begins.
func (m *Manager) KnowsUser(ctx context.Context, c store.Container, name string) error {
	if strings.Trim(name, "0123456789:") == "" {
		return nil
	}
	tree, err := m.rootTree(ctx, c)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if _, err = findUser(tree, name); errors.Is(err, ErrInvalid) {
		return err
	}
	return nil
}

// findUser finds a user in a container's files. One who is not there is [ErrInvalid].
func findUser(tree layer.Tree, name string) (*user.ExecUser, error) {
	u, _, err := sandbox.FindUser(name, func(file string) (io.ReadCloser, error) {
		f, err := layer.Open(tree, file)
		if errors.Is(err, os.ErrNotExist) {
			return io.NopCloser(strings.NewReader("")), nil
		}
		return f, err
	})
	if errors.Is(err, user.ErrNoPasswdEntries) || errors.Is(err, user.ErrNoGroupEntries) {
		text, _, _ := strings.Cut(err.Error(), "\n") // what is said further is about images
		return nil, &noUserError{text}
	}
	return u, err
}

// noUserError is [ErrInvalid] in Docker's words.
type noUserError struct{ text string }

func (e *noUserError) Error() string        { return e.text }
func (e *noUserError) Is(target error) bool { return target == ErrInvalid }
