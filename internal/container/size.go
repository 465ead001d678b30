package container

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Size is the bytes of the files in a container's writable layer, and in those of its mounts, names of one file counted once. With an error it is at least so much.
func (m *Manager) Size(c store.Container) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	count := func(e *layer.Entry) error {
		if !e.IsRegular() {
			return nil
		}
		if e.Nlink > 1 {
			id := inode{e.Dev, e.Inode}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		sum += e.Size
		return nil
	}
	err := layer.WalkLive(m.upperTree(c), ".", false, count)
	for _, dir := range m.mountDirs(c) {
		if err == nil {
			err = layer.WalkLive(m.Store.OpenDir(dir, layer.DirOptions{Overlay: true, Live: true}), ".", false, count)
		}
	}
	if err != nil {
		err = fmt.Errorf("measuring container %s: %w", c.Name, err)
	}
	return sum, err
}

// mountDirs are the directories that mounts of a failed step have of their own.
func (m *Manager) mountDirs(c store.Container) (all []string) {
	s := StepOf(c)
	if s == nil {
		return nil
	}
	for _, sm := range s.Mounts {
		for _, name := range []string{sm.Copied, sm.Changed} {
			if name != "" {
				all = append(all, filepath.Join(m.Store.ContainerDir(c.ID), name))
			}
		}
	}
	return all
}

// RootSize is the bytes of the files in all layers of a container: of its image, and its own.
func (m *Manager) RootSize(ctx context.Context, c store.Container) (int64, error) {
	own, err := m.Size(c)
	if err != nil {
		return 0, err
	}
	sum, err := m.ImageSize(ctx, c)
	return own + sum, err
}

// ImageSize is the bytes of the files in the layers of a container's image.
func (m *Manager) ImageSize(ctx context.Context, c store.Container) (sum int64, err error) {
	for _, id := range c.Snapshot {
		n, err := m.Store.Size(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("measuring container %s: %w", c.Name, err)
		}
		sum += n
	}
	return sum, nil
}
