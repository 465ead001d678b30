package build

import (
	"fmt"
	"slices"
	"sync"

	gw "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/outbound"
)

// moreCaches are caches that a build imports because whoever evaluates asks for them, besides those of the request.
type moreCaches struct {
	mu     sync.Mutex
	known  map[string]bool // all that were asked for, those of the request too
	closed bool
}

// maxCaches is how many caches may be asked for, of each of which a manifest and a config are held in memory.
const maxCaches = 64

// asked is what tells two caches apart.
func asked(e cache.Entry) string { return fmt.Sprintf("%q %q", e.Type, e.Attrs) }

// importMore imports caches that whoever evaluates asks for. As in BuildKit those that cannot be imported are failed steps, and the
// build goes on without them.
func (b *building) importMore(entries []gw.CacheOptionsEntry) {
	c := b.caches
	c.more.mu.Lock()
	defer c.more.mu.Unlock()
	for _, e := range entries {
		entry := cache.Entry{Type: e.Type, Attrs: e.Attrs}
		n := len(c.more.known)
		if c.ctx == nil || c.more.closed || n > maxCaches || c.more.known[asked(entry)] {
			continue
		}
		c.more.known[asked(entry)] = true
		i, err := b.openMore(entry)
		if n == maxCaches {
			err = fmt.Errorf("a build may ask for %d caches, and this is one more", maxCaches)
		}
		if err != nil {
			b.importing(outbound.Clean(e.Type+" "+e.Attrs["ref"]), n).Done(err)
			continue
		}
		c.from = append(c.from, i)
		b.run.Import(i)
		c.begin(b, i, n)
	}
}

// openMore opens a cache that was asked for by somebody who is not believed to name things of this machine: a client's are the
// client's, and there are no others.
func (b *building) openMore(e cache.Entry) (*cache.Import, error) {
	types := []string{cache.TypeRegistry}
	if b.req.Client != nil {
		types = append(types, cache.TypeLocal)
	}
	if !slices.Contains(types, e.Type) {
		return nil, fmt.Errorf("unknown cache importer: %q", e.Type)
	}
	wanted, err := b.req.wanted()
	if err != nil {
		return nil, err
	}
	f, err := cache.ParseFrom(b.req.places([]cache.Entry{e})[0])
	if err != nil {
		return nil, err
	}
	return f.Open(b.images.Registry(), wanted...), nil
}
