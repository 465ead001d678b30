// Package container creates containers from images, runs them in the foreground, and copies files
// into and out of them.
//
// # Structure
//
// A container is a record of the store: an image's snapshot, a writable layer on top, and a
// [Config] that says what to run (config.go). [Manager.Run] runs it in the sandbox (run.go);
// state.go tells whether it runs. Copying needs no running container and no mount: it reads the
// merged view of the layers (copyout.go), and writes into the writable layer in overlay-native
// form (copyin.go). What runs is looked at, and written to, through the root of its process
// (process.go), in which no symbolic link is followed but inside of that root.
//
// # Caveats
//
// There is no daemon: a container runs as long as the process that runs it. That is the one of [Manager.Run], or one of the container's own
// (monitor.go), which outlives whoever started it. Either serves others (hosting.go): package host has how. When it is killed the next one
// to look notes the end ([Manager.Settle]).
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// Manager works on the containers of one store. Runner is only needed by Run and Monitor.
type Manager struct {
	Store  *store.Store
	Runner sandbox.Runner
	// Command makes a command that is a process which calls [Manager.Monitor] with an ID, and with its descriptor 3. It is needed by Start and Attach.
	Command func(id string) *exec.Cmd
	// Reopen gives a manager whose store is open until release is called, where Store may be closed while something is waited for; nil: it is open.
	Reopen func() (m *Manager, release func(), err error)
	// VolumeGone is told the name of a volume that has gone with a container, before that is told; nil: nobody wants to know.
	VolumeGone func(name string)
}

// opened is a manager whose store is open until release is called.
func (m *Manager) opened() (*Manager, func(), error) {
	if m.Reopen == nil {
		return m, func() {}, nil
	}
	return m.Reopen()
}

// ErrRunning marks a container that runs, where it must not.
var ErrRunning = errors.New("container is running")

// Create records a container of img. name may be empty: then a readable one is made up. A name
// that is taken is [store.ErrNameTaken].
func (m *Manager) Create(ctx context.Context, name string, img *Image, opts Options) (store.Container, error) {
	var c store.Container
	config, err := NewConfig(img, opts)
	if err != nil {
		return c, err
	}
	if name != "" && !ValidName(name) {
		return c, invalidName(name)
	}
	id, err := store.NewContainerID()
	if err != nil {
		return c, err
	}
	if config.Hostname == "" {
		config.Hostname = id[:12]
		if name, err := os.Hostname(); err == nil && config.Network == sandbox.NetworkHost { // what is on the network goes by it
			config.Hostname = name
		}
	}
	data, err := json.Marshal(config)
	if err != nil {
		return c, fmt.Errorf("creating container: %w", err)
	}
	c = store.Container{ID: id, Name: name, Image: img.Ref, ImageID: img.ID, Snapshot: img.Snapshot, Config: data, Created: time.Now()}
	for try := 0; ; try++ {
		if name == "" {
			c.Name = RandomName(try)
		}
		err = m.Store.AddContainer(ctx, c)
		if name != "" || !errors.Is(err, store.ErrNameTaken) || try > 10 {
			break
		}
	}
	if err != nil {
		return c, err
	}
	m.tell(c, "create", nil)
	// The writable layer's root is the container's: whatever the umask, all may look into it.
	return c, os.Chmod(m.upper(c.ID), 0o755)
}

// ValidName is the rule of Docker for names of containers, but one character is enough.
func ValidName(name string) bool {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return name != "" && strings.Contains(alnum, name[:1]) && strings.Trim(name, alnum+"_.-") == ""
}

func invalidName(name string) error {
	//lint:ignore ST1005 these are Docker's words
	return fmt.Errorf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
}

// Rename gives a container another name; one that is taken is [store.ErrNameTaken].
func (m *Manager) Rename(ctx context.Context, c store.Container, name string) error {
	if !ValidName(name) {
		return invalidName(name)
	}
	if name == c.Name {
		return errors.New("Renaming a container with the same name as its current name") //lint:ignore ST1005 Docker's words
	}
	if err := m.Store.RenameContainer(ctx, c, name); err != nil {
		return err
	}
	old := c.Name
	c.Name = name
	m.tell(c, "rename", map[string]string{"oldName": "/" + old})
	return nil
}

// renamed is a container with the name that it has now, if that can be read.
func (m *Manager) renamed(c store.Container) store.Container {
	if now, err := m.Store.Container(context.Background(), c.ID); err == nil && now.ID == c.ID {
		c.Name = now.Name
	}
	return c
}

// Remove deletes a container with its files, and with volumes the anonymous ones that it has, which go anyway with one that is to go when it has
// ended. A running one is [ErrRunning]; with force it is ended first.
func (m *Manager) Remove(ctx context.Context, nameOrID string, force, volumes bool) error {
	c, err := m.Store.Container(ctx, nameOrID)
	if err != nil {
		return err
	}
	if force && m.State(c.ID).Running {
		if err := m.end(ctx, c); err != nil {
			return fmt.Errorf("removing container %s: %w", nameOrID, err)
		}
	}
	err = m.removeStopped(ctx, c, volumes)
	switch {
	case force && errors.Is(err, store.ErrNotFound): // who ran it has removed it
		return nil
	case errors.Is(err, ErrRunning):
		return fmt.Errorf("cannot remove container %q: %w: stop the container before removing or force remove", c.Name, ErrRunning)
	}
	return err
}

// removeStopped deletes a container that does not run, and keeps it from being run meanwhile. One that runs is [ErrRunning].
// What it had of volumes goes whoever waits for it.
func (m *Manager) removeStopped(ctx context.Context, c store.Container, volumes bool) error {
	now, err := m.removeRecord(ctx, c)
	if err != nil {
		return err
	}
	if volumes || goesAtEnd(now) {
		err = m.RemoveAnonymous(context.WithoutCancel(ctx), now)
	}
	m.tell(now, "destroy", nil)
	return err
}

// Discard deletes a container that was just made, without its volumes, which the caller has locked.
func (m *Manager) Discard(ctx context.Context, c store.Container) error {
	now, err := m.removeRecord(ctx, c)
	if err == nil {
		m.tell(now, "destroy", nil)
	}
	return err
}

// removeRecord is removeStopped without volumes, of which nothing is told. It returns what the container was.
func (m *Manager) removeRecord(ctx context.Context, c store.Container) (now store.Container, err error) {
	release, err := m.lockToCopy(ctx, c.ID)
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("container %s: %w", c.Name, store.ErrNotFound)
	}
	if err != nil {
		return c, err
	}
	now, err = m.Store.Container(ctx, c.ID) // somebody may have been faster
	if err == nil {
		err = m.Store.RemoveContainer(ctx, c.ID)
	}
	if err = errors.Join(err, release()); err != nil {
		return c, err
	}
	return now, nil
}

// goesAtEnd reports whether a container is to go when it has ended.
func goesAtEnd(c store.Container) bool {
	config, err := ReadConfig(c)
	return err == nil && config.AutoRemove
}

// removeWanted is [Manager.RemoveEnded] of a container that is to go then, by what its record says now: a newer build may have replaced a failed step meanwhile.
func (m *Manager) removeWanted(ctx context.Context, id string) error {
	m, release, err := m.opened()
	if err != nil {
		return err
	}
	defer release()
	c, err := m.Store.Container(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil || !goesAtEnd(c) {
		return err
	}
	return m.RemoveEnded(ctx, c)
}

// RemoveEnded deletes a container that is to go when it has ended, with its anonymous volumes. One that runs again, is about to be restarted, or is gone, is left alone.
func (m *Manager) RemoveEnded(ctx context.Context, c store.Container) error {
	kept, err := m.isKept(c.ID)
	if err == nil && kept {
		return nil
	}
	if err == nil {
		err = m.removeStopped(ctx, c, true)
	}
	if errors.Is(err, ErrRunning) || errors.Is(err, store.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// end kills a container and waits for it; where that does not help, the process that runs it.
func (m *Manager) end(ctx context.Context, c store.Container) error {
	soon, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	err := m.Kill(soon, c, syscall.SIGKILL)
	s := m.State(c.ID)
	if !s.Running {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	return m.endRunner(ctx, c.ID, s)
}

// endTime is how long a container may take to end that was killed.
const endTime = 10 * time.Second

// endRunner ends the process that runs a container, which ends the container, and waits for it.
func (m *Manager) endRunner(ctx context.Context, id string, s State) error {
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL} {
		if err := m.signalRunner(id, s.PID, sig); err != nil {
			return fmt.Errorf("ending process %d: %w", s.PID, err)
		}
		for range 100 {
			if !m.State(id).Running {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(30 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("process %d does not end", s.PID)
}

// signalRunner sends a signal to the process that runs a container, and to no other one that has got its number since.
func (m *Manager) signalRunner(id string, pid int, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		err = unix.Kill(pid, sig)
	case err == nil:
		defer unix.Close(fd)
		if s := m.State(id); !s.Running || s.PID != pid {
			return nil
		}
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// upper is the writable layer's directory, work the scratch directory beside it, which each start makes anew.
func (m *Manager) upper(id string) string { return filepath.Join(m.Store.ContainerDir(id), "fs") }
func (m *Manager) work(id string) string  { return filepath.Join(m.Store.ContainerDir(id), "work") }

// upperTree is the writable layer alone. A process may run in it.
func (m *Manager) upperTree(c store.Container) layer.Tree {
	return m.Store.OpenDir(m.upper(c.ID), layer.DirOptions{Overlay: true, Live: true})
}

// tree is the root filesystem as the container would see it.
func (m *Manager) tree(ctx context.Context, c store.Container) (layer.Tree, error) {
	dirs, err := m.Store.Dirs(ctx, c.Snapshot)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", c.Image, err)
	}
	var trees []layer.Tree
	for _, dir := range dirs {
		trees = append(trees, m.Store.OpenDir(dir, layer.DirOptions{Overlay: true, Immutable: true}))
	}
	trees = append(trees, m.upperTree(c))
	return layer.Merged(trees), nil
}
