package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// Size is the bytes of the files in a container's writable layer, names of one file counted once.
func (m *Manager) Size(c store.Container) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	err := layer.Walk(changing{m.upperTree(c)}, ".", func(e *layer.Entry) error {
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
	})
	if err != nil {
		return 0, fmt.Errorf("measuring container %s: %w", c.Name, err)
	}
	return sum, nil
}

// changing is a tree from which directories may vanish while it is walked: a process in the container removes them.
type changing struct{ layer.Tree }

// ReadDir implements layer.Tree. A directory that is gone has nothing in it.
func (t changing) ReadDir(name string) ([]*layer.Entry, error) {
	entries, err := t.Tree.ReadDir(name)
	if name != "." && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// RootSize is the bytes of the files in all layers of a container: of its image, and its own.
func (m *Manager) RootSize(ctx context.Context, c store.Container) (int64, error) {
	sum, err := m.Size(c)
	if err != nil {
		return 0, err
	}
	for _, id := range c.Snapshot {
		n, err := m.Store.Size(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("measuring container %s: %w", c.Name, err)
		}
		sum += n
	}
	return sum, nil
}
