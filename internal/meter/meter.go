// Package meter writes down the work that is done on layers in a build: what was fetched, unpacked, written, packed and compressed,
// when, and how many bytes that was.
//
// A meter is in the context of a build. Work that several builds wait for is in that of the build which began it. What is not
// metered costs nothing: all functions take a context without a meter, too.
package meter

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Kind is what is done with a layer.
type Kind string

const (
	Fetch    Kind = "fetch"    // a blob comes from a registry, a cache or a layout
	Unpack   Kind = "unpack"   // a blob becomes a directory, perhaps while it comes
	Write    Kind = "write"    // files of a plan are written to a directory
	Pack     Kind = "pack"     // files become a tar
	Compress Kind = "compress" // a blob becomes one of another compression
)

// Work is one piece of work.
type Work struct {
	Kind    Kind          `json:"kind"`
	Layer   string        `json:"layer"` // its ID
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
	// Bytes that were read and written, as they are in the store: those of a blob are compressed ones. What is not known is 0:
	// how much a plan reads.
	Read    int64 `json:"read,omitempty"`
	Written int64 `json:"written,omitempty"`
}

// Meter collects work. It is safe for concurrent use.
type Meter struct {
	mu  sync.Mutex
	all []Work
}

type key struct{}

// With returns a context in which work is written down by m.
func With(ctx context.Context, m *Meter) context.Context { return context.WithValue(ctx, key{}, m) }

// Begin begins a piece of work. The function that it returns ends it, with the bytes that were read and written; work that failed
// does not end.
func Begin(ctx context.Context, kind Kind, layer string) (end func(read, written int64)) {
	m, _ := ctx.Value(key{}).(*Meter)
	if m == nil {
		return func(int64, int64) {}
	}
	began := time.Now()
	return func(read, written int64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.all = append(m.all, Work{kind, layer, began, time.Since(began), read, written})
	}
}

// All is the work that has ended so far, in the order in which it ended.
func (m *Meter) All() []Work {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.all)
}
