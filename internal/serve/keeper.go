package serve

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/slipway-build/slipway/internal/serve/control"
)

// Keeper opens what requests are served from when the first of them comes, and closes it when there was none for a while: a
// server that has nothing to do holds the store as little as one that is not there. What is old is closed as soon as its requests are
// over, and those that come meanwhile get another one, so that what a store keeps for a process is not kept for ever.
type Keeper struct {
	// Open opens it; close is called once, when nobody uses it any more.
	Open func() (b *control.Backend, close func() error, err error)
	// Linger is how long it stays open after a request, MaxAge how long it is given to new ones.
	Linger, MaxAge time.Duration
	// Warn is told of what cannot be closed.
	Warn func(text string)

	mu   sync.Mutex
	held *held          // that new requests get; nil before the first
	all  map[*held]bool // that are not closed
}

// held is what was opened.
type held struct {
	b       *control.Backend
	close   func() error
	since   time.Time
	users   int
	retired bool
	timer   *time.Timer // of the linger
	closed  chan struct{}
}

// Acquire gives what a request is served from until it calls release.
func (k *Keeper) Acquire() (*control.Backend, func(), error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held != nil && time.Since(k.held.since) > k.MaxAge {
		k.retire(k.held)
	}
	if k.held == nil {
		b, closeIt, err := k.Open()
		if err != nil {
			return nil, nil, err
		}
		h := &held{b: b, close: closeIt, since: time.Now(), closed: make(chan struct{})}
		h.timer = time.AfterFunc(time.Hour, func() { k.leave(h) })
		if k.all == nil {
			k.all = map[*held]bool{}
		}
		k.held, k.all[h] = h, true
	}
	h := k.held
	h.timer.Stop()
	h.users++
	return h.b, sync.OnceFunc(func() { k.release(h) }), nil
}

func (k *Keeper) release(h *held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	if h.retired {
		k.end(h)
		return
	}
	h.timer.Reset(k.Linger)
}

// leave closes what nobody has used for a while.
func (k *Keeper) leave(h *held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h.users == 0 && !h.retired {
		k.retire(h)
	}
}

// retire gives it to nobody any more. The lock is held.
func (k *Keeper) retire(h *held) {
	h.retired, k.held = true, nil
	h.timer.Stop()
	if h.users == 0 {
		k.end(h)
	}
}

// end closes it, while others may open another one.
func (k *Keeper) end(h *held) {
	go func() {
		if err := h.close(); err != nil {
			k.Warn(fmt.Sprintf("closing the store: %v", err))
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.all, h)
		close(h.closed)
	}()
}

// Renew has new requests get another one than what is open. The channel is closed when all that is open now is closed: when its
// requests are over.
func (k *Keeper) Renew() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held != nil {
		k.retire(k.held)
	}
	closed, all := make(chan struct{}), slices.Collect(maps.Keys(k.all))
	go func() {
		for _, h := range all {
			<-h.closed
		}
		close(closed)
	}()
	return closed
}

// Close closes what is open, and waits for those that use it, but not longer than it is told to.
func (k *Keeper) Close(atMost time.Duration) {
	select {
	case <-k.Renew():
	case <-time.After(atMost):
		k.Warn("the store is in use still: what is half-done is left for the next one")
	}
}
