package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

const (
	// maxConfig is the size in bytes of the largest cache config, or image config, that is read.
	maxConfig = 64 << 20
	// maxFetches is how many layers are fetched from one cache at the same time.
	maxFetches = 4
)

// Import is a cache that is imported. It is safe for concurrent use: lookups wait for Load.
type Import struct {
	name      string
	where     string // for Origin
	from      origin
	platforms platforms.MatchComparer
	wait      time.Duration // for how long steps of others may be waited for
	slots     *semaphore.Weighted

	loaded   chan struct{} // closed when contents and err are set
	contents *contents
	err      error

	mu      sync.Mutex
	hits    int
	dropped map[digest.Digest]bool // blobs that turned out to be gone or damaged
	broken  error                  // why it is not asked any more

	// Of a cache that is asked for each key:
	life     context.Context // in which it may be
	end      context.CancelFunc
	failed   func(error) // is told why it is not asked any more
	asks     singleflight.Group
	ahead    *semaphore.Weighted
	patience patience
	asked    map[string]bool                     // keys whose answer is in contents
	hit      map[string]bool                     // results that were given
	noted    map[string]time.Time                // when it is noted that they were used
	memos    map[string]map[string]digest.Digest // by the key of the result that they are of, which the same answer had
}

// Open prepares an import. Of an image for several platforms with inline caches, those for the given
// ones are read. client may be nil for what is not in a registry.
func (f *From) Open(client *registry.Client, wanted ...ocispec.Platform) *Import {
	i := &Import{
		name: f.Name(), where: f.Type + " " + f.location.where(), platforms: platforms.Any(wanted...),
		wait: f.wait, slots: semaphore.NewWeighted(maxFetches), loaded: make(chan struct{}), dropped: map[digest.Digest]bool{},
	}
	i.from, i.err = f.location.open(nil, client)
	return i
}

// Name is how messages call the cache.
func (i *Import) Name() string { return i.name }

// Origin says where the cache is, wherever the build runs.
func (i *Import) Origin() string { return i.where }

// Load reads what the cache knows; it is called once. When it fails, all lookups miss.
// tell is given what was found out, for a display. failed is told, once, when a lookup fails later, in the time of ctx.
func (i *Import) Load(ctx context.Context, tell func(string), failed func(error)) error {
	defer close(i.loaded)
	i.failed, i.asked, i.memos = failed, map[string]bool{}, map[string]map[string]digest.Digest{}
	i.hit, i.noted = map[string]bool{}, map[string]time.Time{}
	i.life, i.end = context.WithCancel(ctx)
	i.ahead, i.patience = semaphore.NewWeighted(maxAhead), patience{left: allowance}
	if i.err != nil { // it could not be opened
		return i.err
	}
	if _, is := i.from.(*byKey); is {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, firstAnswer, errSlow)
		defer stop()
	}
	if i.contents, i.err = i.from.load(ctx, i.platforms, tell); i.err != nil && errors.Is(context.Cause(ctx), errSlow) {
		i.err = errSlow
	}
	if i.err == nil && i.contents.foreign > 0 && len(i.contents.results) == 0 {
		i.err = errForeign
	}
	return i.err
}

// get returns what the cache knows, or nil when it could not be imported.
func (i *Import) get(ctx context.Context) *contents {
	select {
	case <-i.loaded:
	case <-ctx.Done():
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil || i.broken != nil {
		return nil
	}
	return i.contents
}

// has reports whether the contents have the answer for a key, as far as there will be one.
func (i *Import) has(key string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[key] || i.broken != nil
}

// Result looks a result up by its key. One of which a layer turned out to be gone is not there.
func (i *Import) Result(ctx context.Context, key string) (*Found, bool) {
	c := i.get(ctx)
	if c == nil {
		return nil, false
	}
	i.ask(ctx, key)
	i.mu.Lock()
	defer i.mu.Unlock()
	f, ok := c.results[key]
	if !ok || i.lacks(f) {
		return nil, false
	}
	i.hit[key] = i.asked[key]
	return f, true
}

// lacks reports whether a layer of a result turned out to be gone. The caller holds the lock.
func (i *Import) lacks(f *Found) bool {
	for _, out := range f.Outputs {
		for _, l := range out {
			if i.dropped[l.Blob.Digest] {
				return true
			}
		}
	}
	return false
}

// Memo looks a digest of a selection of files up, by its key, and that of the result whose files they are. Where each result is by itself,
// it is of that which Result gives: when that is not there any more, neither is the digest.
func (i *Import) Memo(ctx context.Context, of, key string) (digest.Digest, bool) {
	c := i.get(ctx)
	if c == nil {
		return "", false
	}
	i.ask(ctx, of)
	i.mu.Lock()
	defer i.mu.Unlock()
	memos := c.memos
	if i.asked[of] {
		if f, ok := c.results[of]; ok && i.lacks(f) {
			return "", false
		}
		memos, i.hit[of] = i.memos[of], true
	}
	d, ok := memos[key]
	return d, ok
}

// Bad reports whether a blob turned out to be gone, or to have other bytes.
func (i *Import) Bad(blob digest.Digest) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dropped[blob]
}

// Forget is told that a digest is not that of the files. It is not given any more.
func (i *Import) Forget(of, key string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.memos[of], key)
	if i.contents != nil {
		delete(i.contents.memos, key)
	}
}

// Lines are the key lines of what was last at a place, or nil.
func (i *Import) Lines(ctx context.Context, place string) []string {
	c := i.get(ctx)
	if c == nil {
		return nil
	}
	return c.lines[place].lines
}

// Distrust is told why a layer is not what it is said to be. If the cache says it, it is asked nothing more,
// which is reported: another layer is as likely wrong, and each may take another attempt of the build.
func (i *Import) Distrust(ctx context.Context, blob digest.Digest, why error) bool {
	c := i.get(ctx)
	if c == nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !c.names(blob) {
		return false
	}
	i.broken = why
	return true
}

// Used counts a result that was used.
func (i *Import) Used() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hits++
}

// Report is what became of an import, for a build's record.
type Report struct {
	Name    string `json:"name"`
	Records int    `json:"records"`        // results that it has
	Hits    int    `json:"hits,omitempty"` // results that were used
	Error   string `json:"error,omitempty"`
}

// Report tells what became of the import so far.
func (i *Import) Report() Report {
	r := Report{Name: i.name}
	select {
	case <-i.loaded:
	default:
		return r
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	r.Hits = i.hits
	if i.contents != nil {
		r.Records = len(i.contents.results)
	}
	if err := errors.Join(i.err, i.broken); err != nil && !errors.Is(err, context.Canceled) { // nobody waited for it
		r.Error = err.Error()
	}
	return r
}

// Fetch brings the blob of a layer that the cache holds into the store. When that fails, results
// with the layer, or all, are not there any more, and the error is store.ErrDamaged: whoever asks
// again gets along without them. progress may be nil.
func (i *Import) Fetch(ctx context.Context, s *store.Store, l *Layer, progress func(current, total int64)) error {
	if s.HasBlob(l.Blob.Digest) {
		return nil
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := i.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer i.slots.Release(1)
	err := i.copy(ctx, s, l.Blob, progress)
	if err == nil {
		progress(l.Blob.Size, l.Blob.Size)
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = fmt.Errorf("fetching layer %s from cache %s: %w", l.Blob.Digest, i.name, err)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dropped[l.Blob.Digest] = true; errdefs.IsUnavailable(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		i.broken = err // the next layer would fail the same way, after as many attempts
	}
	return fmt.Errorf("%w: %w", err, store.ErrDamaged)
}

// copy writes a blob into the store, which verifies it.
func (i *Import) copy(ctx context.Context, s *store.Store, desc ocispec.Descriptor, progress func(current, total int64)) error {
	r, err := i.from.open(ctx, desc)
	if err != nil {
		return err
	}
	err = s.WriteBlob(ctx, desc, &meter{r: r, total: desc.Size, tell: progress, last: time.Now()})
	return errors.Join(err, r.Close())
}

// meter tells how much was read.
type meter struct {
	r        io.Reader
	n, total int64
	tell     func(current, total int64)
	last     time.Time
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if n > 0 && m.n < m.total && time.Since(m.last) > 50*time.Millisecond {
		m.last = time.Now()
		m.tell(m.n, m.total)
	}
	return n, err
}
