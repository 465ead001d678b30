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
// There is no daemon: a container runs as long as the process that started it.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// Manager works on the containers of one store. Runner is only needed by Run.
type Manager struct {
	Store  *store.Store
	Runner sandbox.Runner
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
	if name != "" && !validName(name) {
		return c, invalidName(name)
	}
	id, err := store.NewContainerID()
	if err != nil {
		return c, err
	}
	if config.Hostname == "" {
		config.Hostname = id[:12]
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
	// The writable layer's root is the container's: whatever the umask, all may look into it.
	return c, os.Chmod(m.upper(c.ID), 0o755)
}

// validName is the rule of Docker for names of containers, but one character is enough.
func validName(name string) bool {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return name != "" && strings.Contains(alnum, name[:1]) && strings.Trim(name, alnum+"_.-") == ""
}

func invalidName(name string) error {
	//lint:ignore ST1005 these are Docker's words
	return fmt.Errorf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
}

// Rename gives a container another name; one that is taken is [store.ErrNameTaken].
func (m *Manager) Rename(ctx context.Context, c store.Container, name string) error {
	if !validName(name) {
		return invalidName(name)
	}
	if name == c.Name {
		return errors.New("renaming a container with the same name as its current name")
	}
	return m.Store.RenameContainer(ctx, c, name)
}

// Remove deletes a container with its files. A running one is [ErrRunning]; with force it is
// ended first.
func (m *Manager) Remove(ctx context.Context, nameOrID string, force bool) error {
	c, err := m.Store.Container(ctx, nameOrID)
	if err != nil {
		return err
	}
	if s := m.State(c.ID); s.Running {
		if !force {
			return fmt.Errorf("cannot remove container %q: %w: stop the container before removing or force remove", c.Name, ErrRunning)
		}
		if err := m.stop(ctx, c.ID, s); err != nil {
			return fmt.Errorf("removing container %s: %w", nameOrID, err)
		}
	}
	return m.Store.RemoveContainer(ctx, c.ID)
}

// stop ends the process that runs a container, which ends the container, and waits for it.
func (m *Manager) stop(ctx context.Context, id string, s State) error {
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL} {
		if err := syscall.Kill(s.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
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
