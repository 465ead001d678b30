package engine

import (
	"context"
	"fmt"
	"time"
)

// Turns keeps machines from carrying the same step out at the same time, where waiting takes less time. It is no lock: nothing depends on it.
type Turns interface {
	// Take waits until it is the turn of the process of a key; does says which command it is, whatever it stands on and finds in its environment, and name how it is called. It is nil
	// where there is nothing to wait for and nobody to tell.
	Take(ctx context.Context, key, does, name string) Turn
}

// Turn is a step whose turn it is.
type Turn interface {
	// There reports whether somebody else has made the result meanwhile. An imported cache has it then.
	There() bool
	// Ended is told that the step has ended, and how long it took, or with an error. It does not wait.
	Ended(took time.Duration, err error)
}

// taken is a turn since it began, or nothing.
type taken struct {
	Turn
	since time.Time
}

// turn waits until it is the turn of a node that is a process, whose inputs are there: who waits has nothing that others wait for. It is
// nobody's turn where the result is nobody else's, or is made anew.
func (r *Run) turn(ctx context.Context, n *node, id identity, w warming) *taken {
	if r.opt.Turns == nil || n.v.Op.GetExec() == nil || id.fresh || len(w.paths()) > 0 {
		return nil
	}
	m := n.v.Op.GetExec().GetMeta() // not the environment: a version in it, say, changes nothing of how long it takes
	does := fmt.Sprintf("%q in %q as %q on %s", m.GetArgs(), m.GetCwd(), m.GetUser(), platformName(r, n.v.Op.Platform))
	t := r.opt.Turns.Take(ctx, string(id.key), does, n.v.Name())
	if t == nil {
		return nil
	}
	return &taken{t, time.Now()}
}

func (t *taken) ended(err error) {
	if t != nil {
		t.Ended(time.Since(t.since), err)
	}
}
