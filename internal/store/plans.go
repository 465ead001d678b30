package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/meter"
)

// Planned makes the entries of a layer that is not written anywhere yet. It may be asked any
// number of times, and gives the same each time.
type Planned interface {
	WriteTo(layer.Sink) error
}

// plan is a layer that only this process knows, until somebody asks for one of its forms.
type plan struct {
	src     Planned
	created time.Time
	both    bool // see PlanBoth
	tree    func() (layer.Tree, error)

	mu    sync.Mutex
	ended bool
	users sync.WaitGroup // who writes a form: it may be another build
}

// usePlan returns the plan of a layer, which does not end until done is called, or nil.
func (s *Store) usePlan(id layer.ID) (p *plan, done func()) {
	none := func() {}
	if p = s.plan(id); p == nil {
		return nil, none
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil, none
	}
	p.users.Add(1)
	return p, p.users.Done
}

// Plan makes a layer of which nothing is written. [Store.Dir] and [Store.Blob] write the form that
// they are asked for, and record the layer then. The caller ends the use of src with
// [Store.EndPlans]. created is the layer's creation time.
func (s *Store) Plan(src Planned, created time.Time) (layer.ID, error) {
	return s.addPlan(&plan{src: src, created: created})
}

// PlanBoth is [Store.Plan] for a layer of which both will be asked for: whichever comes first, the directory and the
// plain tar are written together, and what they have in common is read once.
func (s *Store) PlanBoth(src Planned, created time.Time) (layer.ID, error) {
	return s.addPlan(&plan{src: src, created: created, both: true})
}

func (s *Store) addPlan(p *plan) (layer.ID, error) {
	l, err := s.current()
	if err != nil {
		return "", err
	}
	id := layer.ID(l.name())
	p.tree = sync.OnceValues(func() (layer.Tree, error) { return planTree(p.src) })
	s.plans.Store(id, p)
	return id, nil
}

func (s *Store) plan(id layer.ID) *plan {
	if p, ok := s.plans.Load(id); ok {
		return p.(*plan)
	}
	return nil
}

// EndPlans forgets how to make layers. Those of which no form was written are gone. It waits for
// those that are being written.
func (s *Store) EndPlans(ids ...layer.ID) {
	for _, id := range ids {
		if p := s.plan(id); p != nil {
			s.plans.Delete(id)
			p.mu.Lock()
			p.ended = true
			p.mu.Unlock()
			p.users.Wait()
		}
	}
}

// Recorded reports whether all layers of a snapshot outlive this process.
func (s *Store) Recorded(ctx context.Context, snap layer.Snapshot) (bool, error) {
	for _, id := range snap {
		if s.plan(id) == nil {
			continue
		}
		_, err := s.recordedLayer(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// putLayer records a layer, or what became known of it. Fields that are not known stay as they are. A layer
// that was packed here, and has another tar now, is no longer the content of the blob that it came as. What is on
// the disk is still there when more is known of it: info.Dir says that the directory was made just now.
func (s *Store) putLayer(tx *sql.Tx, info LayerInfo) error {
	_, err := tx.Exec("INSERT INTO layers(id,diff_id,dir,size,created,boot,blob,media_type,blob_size,claimed) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)"+
		" ON CONFLICT(id) DO UPDATE SET blob=iif(?2 IN ('',diff_id),blob,''), diff_id=iif(?2='',diff_id,?2), dir=max(dir,?3),"+
		" size=iif(?4<0,size,?4), claimed=min(claimed,?10), boot=iif(boot='' AND NOT ?3,boot,?6)",
		string(info.ID), info.DiffID.String(), info.Dir, info.Size, info.Created.UnixNano(), s.boot,
		info.Blob.Digest.String(), info.Blob.MediaType, info.Blob.Size, info.Claimed)
	return err
}

// writePlan makes the directory form of a planned layer, and of one of which both are wanted its plain tar as well.
func (s *Store) writePlan(ctx context.Context, p *plan, info LayerInfo) error {
	var count countingSink
	var t *tarForm // nil: not wanted
	metered, packed := meter.Begin(ctx, meter.Write, string(info.ID)), int64(0)
	defer func() { t.abort() }()
	d, err := s.fillDraft(ctx, info.ID, func(sink layer.Sink) (err error) { // from the beginning, each time
		count = countingSink{Sink: sink}
		if !p.both || info.DiffID != "" {
			return p.src.WriteTo(checkedSink{ctx, &count})
		}
		t.abort()
		if t, err = s.newTarForm(ctx, info.ID); err != nil {
			return err
		}
		return t.write(p.src.WriteTo, checkedSink{ctx, &count})
	})
	if err != nil {
		return fmt.Errorf("writing layer: %w", err)
	}
	defer d.Abort()
	if t != nil {
		if s.verifyForms {
			if err := s.verifyPlan(ctx, p, info.ID, t.blob.Digest()); err != nil {
				return err
			}
		}
		desc, err := t.record(ctx)
		if err != nil {
			return err
		}
		packed = desc.Size
	}
	info.Dir, info.Size = true, count.bytes
	metered(0, count.bytes+packed)
	return d.record(ctx, info)
}

// fillDraft starts the directory form of a layer with the entries that write gives, perhaps twice: see [Store.again].
func (s *Store) fillDraft(ctx context.Context, id layer.ID, write func(layer.Sink) error) (d *Draft, err error) {
	err = s.again(ctx, func() error {
		d, err = s.tryDraft(id, write)
		return err
	})
	return d, err
}

func (s *Store) tryDraft(id layer.ID, write func(layer.Sink) error) (*Draft, error) {
	l, err := s.current()
	if err != nil {
		return nil, err
	}
	d, err := s.draft(l, id)
	if err != nil {
		return nil, err
	}
	w, err := s.DirWriter(d.FS)
	if err == nil {
		err = errors.Join(write(w), w.Close())
	}
	if err != nil {
		d.Abort()
		return nil, err
	}
	return d, nil
}

// ctxSink fails when its context ends, so that long writes can be cancelled.
type ctxSink struct {
	ctx context.Context
	layer.Sink
}

func (c *ctxSink) Add(e *layer.Entry) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return c.Sink.Add(e)
}

// checkedSink is a ctxSink for sinks that do not look at the digests of contents: a content that
// does not have the digest that its entry names is an error, as it is for a blob. What is
// [layer.Settled] need not be digested for that.
type checkedSink struct {
	ctx context.Context
	layer.Sink
}

func (c checkedSink) Add(e *layer.Entry) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if e.Content != nil && e.Digest != "" && !layer.Settled(e.Content) {
		d := *e
		d.Content = checkedContent{c.ctx, e}
		e = &d
	}
	return c.Sink.Add(e)
}

type checkedContent struct {
	ctx context.Context
	e   *layer.Entry
}

func (c checkedContent) Open() (io.ReadCloser, error) {
	r, err := layer.OpenContent(c.e)
	if err != nil {
		return nil, err
	}
	return verified(layer.ContextReader(c.ctx, layer.SkipHoles(r, c.e.Size)), r, c.e.Digest, func(got digest.Digest) error {
		return fmt.Errorf("file changed while being read: its digest was %s and is %s now", c.e.Digest, got)
	}), nil
}

// planTree is a planned layer as the tree of one layer.
func planTree(src Planned) (layer.Tree, error) {
	if p, ok := src.(interface{ LayerTree() layer.Tree }); ok { // without a copy of all its entries
		return p.LayerTree(), nil
	}
	c := &contents{Index: layer.NewIndex(), of: map[string]layer.Content{}}
	if err := src.WriteTo(c); err != nil {
		return nil, fmt.Errorf("reading layer: %w", err)
	}
	return c.Index.Tree(c.open), nil
}
