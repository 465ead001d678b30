package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// firstAnswer is how long a cache may take for its first answer, which may need a connection and a token, and oneAnswer for another one.
	firstAnswer = 10 * time.Second
	oneAnswer   = 5 * time.Second
	// allowance is for how long a build waits for the answers of a cache, besides the time that its hits have saved; each is taken to have saved
	// maxSaved at most, as that is what the cache says.
	allowance = 10 * time.Second
	maxSaved  = time.Minute
	// maxAhead is how many keys a cache is asked for at the same time ahead of who needs them.
	maxAhead = 8
)

// errSlow is a cache that would hold up a build for longer than it is worth.
var errSlow = errors.New("it answers too slowly")

// patience is for how long somebody may be waited for, by any number who wait at the same time.
type patience struct {
	mu      sync.Mutex
	left    time.Duration // as of since
	waiting int
	since   time.Time // somebody has waited since then, if waiting is not 0
}

// wait has f wait until a context ends that does so when patience is over, or after most. It reports whether it was over.
func (p *patience) wait(ctx context.Context, most time.Duration, f func(context.Context)) (over bool) {
	left := p.enter()
	defer p.leave()
	ctx, cancel := context.WithTimeoutCause(ctx, min(left, most), errSlow)
	defer cancel()
	f(ctx)
	return errors.Is(context.Cause(ctx), errSlow)
}

func (p *patience) enter() (left time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	p.waiting++
	return p.left
}

// remaining is what is left of it.
func (p *patience) remaining() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	return p.left
}

func (p *patience) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account()
	p.waiting--
}

// grow gives more.
func (p *patience) grow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += d
}

// account takes off what was waited for. The caller holds the lock.
func (p *patience) account() {
	now := time.Now()
	if p.waiting > 0 {
		p.left -= now.Sub(p.since)
	}
	p.since = now
}

// stop has a cache asked no more, for a reason.
func (i *Import) stop(why error) {
	i.mu.Lock()
	first := i.broken == nil
	if first {
		i.broken = why
	}
	i.mu.Unlock()
	if first && i.life.Err() == nil {
		i.end()
		i.failed(why)
	}
}

// ask asks for a key, of a cache that is asked for each. Its contents have the answer then, and nothing else of what came, unless ctx or
// the import ends before. The first failure is the last request: others would take as many attempts.
func (i *Import) ask(ctx context.Context, key string) {
	from, is := i.from.(*byKey)
	if !is || i.has(key) {
		return
	}
	answer := i.asks.DoChan(key, func() (any, error) {
		i.answer(from, key)
		return nil, nil
	})
	over := i.patience.wait(ctx, oneAnswer, func(ctx context.Context) {
		select {
		case <-answer:
		case <-ctx.Done():
		}
	})
	if over && !i.has(key) {
		i.stop(fmt.Errorf("looking %s up: %w", key, errSlow))
	}
}

// Ahead has a cache that is asked for each key asked for some that are likely to be needed, a few at a time, and does not wait.
func (i *Import) Ahead(keys []string) {
	from, is := i.from.(*byKey)
	select {
	case <-i.loaded:
	default:
		return
	}
	if !is || i.err != nil {
		return
	}
	for _, key := range keys {
		if i.has(key) {
			continue
		}
		i.asks.DoChan(key, func() (any, error) {
			if i.ahead.Acquire(i.life, 1) == nil {
				defer i.ahead.Release(1)
				i.answer(from, key)
			}
			return nil, nil
		})
	}
}

// answer puts the answer for a key into the contents. A failure is why nobody is asked any more.
func (i *Import) answer(from *byKey, key string) {
	if i.has(key) {
		return
	}
	e, err := lookSafely(i.life, from, key)
	if err != nil {
		if i.life.Err() == nil {
			i.stop(fmt.Errorf("looking %s up: %w", key, err))
		}
		return
	}
	i.learn(key, e)
}

// learn puts an entry into the contents.
func (i *Import) learn(key string, e entry) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[key], i.memos[key], i.noted[key] = true, e.memos, e.used
	if f, ok := e.results[key]; ok {
		i.contents.results[key] = f
		i.patience.grow(min(max(f.Result.Took, 0), maxSaved))
	}
}

// lookSafely makes a panic an error: what somebody has put there ends no more than the use of the cache.
func lookSafely(ctx context.Context, from *byKey, key string) (e entry, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a bug of slipway: panic: %v", r)
		}
	}()
	return from.look(ctx, key)
}
