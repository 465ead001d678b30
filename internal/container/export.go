package container

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

// ExportAll writes the whole root filesystem of a container to w as a tar stream, without what is
// mounted there.
func (m *Manager) ExportAll(ctx context.Context, c store.Container, w io.Writer) error {
	tree, err := m.tree(ctx, c)
	if err != nil {
		return fmt.Errorf("exporting container %s: %w", c.Name, err)
	}
	tw := layer.NewTarWriter(w)
	err = layer.WriteLive(tree, &cancelled{tw, ctx})
	if err := errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("exporting container %s: %w", c.Name, err)
	}
	return nil
}

// cancelled ends the writing to a sink with its context.
type cancelled struct {
	layer.Sink
	ctx context.Context
}

func (s *cancelled) Add(e *layer.Entry) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return s.Sink.Add(e)
}
