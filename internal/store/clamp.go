package store

import (
	"context"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// PlanClamped plans the layer that has the entries of another one, with times that are not later
// than the epoch. As with [Store.Plan], nothing is written until a form is asked for, and the
// caller ends its use with [Store.EndPlans]; the other layer must be there until then.
func (s *Store) PlanClamped(ctx context.Context, id layer.ID, epoch time.Time) (layer.ID, error) {
	info, err := s.Layer(ctx, id)
	if err != nil {
		return "", err
	}
	created := info.Created
	if created.After(epoch) {
		created = epoch
	}
	return s.Plan(clamped{ctx, s, id, epoch}, created)
}

type clamped struct {
	ctx   context.Context
	s     *Store
	id    layer.ID
	epoch time.Time
}

// WriteTo implements [Planned].
func (c clamped) WriteTo(sink layer.Sink) error {
	write, _, done, err := c.s.entries(c.ctx, c.id)
	if err != nil {
		return err
	}
	defer done()
	return write(clampSink{sink, c.epoch})
}

// clampSink sets times that are later than the epoch to it.
type clampSink struct {
	layer.Sink
	epoch time.Time
}

func (c clampSink) Add(e *layer.Entry) error {
	if e.ModTime.After(c.epoch) {
		d := *e
		d.ModTime = c.epoch
		e = &d
	}
	return c.Sink.Add(e)
}
