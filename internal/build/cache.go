package build

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
)

// caches are the imported and exported caches of one build, however often it is tried.
type caches struct {
	from []*cache.Import
	own  []*cache.Import // of from, those that no other build of the call loads
	to   []*cache.To

	mounts []*cache.Mounts // of from, those that carry cache mounts
	silent sync.Map        // those of mounts that are not asked any more

	load sync.WaitGroup
	ctx  context.Context // of imports; nil: there are none
	end  context.CancelFunc

	more moreCaches
}

// openCaches reads what the request says of caches. imports are those that the builds of the call share, by what they were asked for.
func (b *building) openCaches(imports map[string]*cache.Import) (*caches, error) {
	c, req := &caches{end: func() {}, more: moreCaches{known: map[string]bool{}}}, &b.req
	wanted, err := req.wanted()
	if err != nil {
		return nil, err
	}
	for _, e := range req.places(req.CacheFrom) {
		froms, err := cache.ParseFroms([]cache.Entry{e}) // none, where there is no such cache in this environment
		if err != nil {
			return nil, err
		}
		key := fmt.Sprintf("%q %q %q", e.Type, e.Attrs, wanted)
		c.more.known[asked(e)] = true
		for _, f := range froms {
			if imports[key] == nil {
				imports[key] = f.Open(b.images.Registry(), wanted...)
				c.own = append(c.own, imports[key])
			}
			c.from = append(c.from, imports[key])
			if m := f.Mounts(); m != nil {
				c.mounts = append(c.mounts, m)
			}
		}
	}
	to := req.places(req.CacheTo)
	if on, err := strconv.ParseBool(req.BuildArgs["BUILDKIT_INLINE_CACHE"]); err == nil && on {
		to = append(slices.Clone(to), cache.Entry{Type: cache.TypeInline})
	}
	if c.to, err = cache.ParseTos(to); err != nil {
		return nil, err
	}
	return c, nil
}

// exporterResponseManifestDesc is by what a client is told of the manifest of a cache.
const exporterResponseManifestDesc = "cache.manifest"

// places are caches as whose they are: with a client, the client's, with its directories.
func (r *Request) places(entries []cache.Entry) []cache.Entry {
	if r.Client == nil {
		return entries
	}
	entries = slices.Clone(entries)
	for i := range entries {
		entries[i].Foreign = true
		entries[i].Directory = func(path string) cache.Blobs { return r.Client.Blobs("", client.CacheStore+path) }
	}
	return entries
}

// wanted are the platforms of the request, or this machine's.
func (r *Request) wanted() ([]ocispec.Platform, error) {
	if r.Client != nil {
		if all, err := platforms.ParseAll(strings.Split(r.Attrs["platform"], ",")); err == nil {
			return all, nil // else it is none, or the frontend says what is wrong with it
		}
	}
	if r.Client != nil || len(r.Platforms) == 0 {
		return []ocispec.Platform{platforms.DefaultSpec()}, nil
	}
	return platforms.ParseAll(r.Platforms)
}

// start begins to import. What cannot be imported is shown as a failed step, and the build goes on
// without it.
func (c *caches) start(ctx context.Context, b *building) {
	c.ctx, c.end = context.WithCancel(ctx)
	for n, i := range c.own {
		c.begin(b, i, n)
	}
}

// begin begins to import a cache.
func (c *caches) begin(b *building, i *cache.Import, n int) {
	c.load.Go(func() {
		step := b.importing(i.Name(), n)
		step.Done(i.Load(c.ctx, func(line string) { step.Status(line, 0, 0, true) }, func(err error) {
			b.importing(i.Name()+" (it is not asked any more)", n).Done(err)
		}))
	})
}

// importing begins the step of an import, the nth of the build.
func (b *building) importing(name string, n int) *progress.Step {
	name = "importing cache manifest from " + name
	return progress.Start(b.sink, progress.Vertex{Digest: b.id(fmt.Sprint(name, n)), Name: name})
}

// close ends imports that nobody waited for.
func (c *caches) close() {
	c.more.mu.Lock()
	c.more.closed = true
	c.more.mu.Unlock()
	c.end()
	c.load.Wait()
}

// foreign are the imports as the engine asks them.
func (c *caches) foreign() []engine.Foreign {
	var all []engine.Foreign
	for _, i := range c.from {
		all = append(all, i)
	}
	return all
}

// bad reports whether a blob turned out to be gone from an imported cache, or to have other bytes there.
func (c *caches) bad(blob digest.Digest) bool {
	return slices.ContainsFunc(c.imports(), func(i *cache.Import) bool { return i.Bad(blob) })
}

// imports are those that were asked for by now.
func (c *caches) imports() []*cache.Import {
	c.more.mu.Lock()
	defer c.more.mu.Unlock()
	return slices.Clone(c.from)
}

// reports tells what became of the imports.
func (c *caches) reports() []cache.Report {
	var all []cache.Report
	for _, i := range c.from {
		all = append(all, i.Report())
	}
	return all
}

// edge is what the product is in the graph.
func (p *product) edge() graph.Edge {
	if p.ref == nil {
		return graph.Edge{}
	}
	return p.ref.Edge()
}

// inlineCaches puts inline caches into the images of products, when they are asked for.
func (b *building) inlineCaches(ctx context.Context, products []*product) error {
	if !slices.ContainsFunc(b.caches.to, func(t *cache.To) bool { return t.Type == cache.TypeInline }) {
		return nil
	}
	for _, p := range products {
		set, err := b.run.Cacheable(ctx, p.edge())
		if err == nil {
			p.Cache, err = cache.Inline(set, p.Snapshot)
		}
		if err != nil {
			return fmt.Errorf("preparing layers for inline cache: %w", err)
		}
	}
	return nil
}

// exportCaches writes the caches that are asked for, but for inline ones, which are in the images.
func (b *building) exportCaches(ctx context.Context, products []*product, res *Result) error {
	var edges []graph.Edge
	for _, p := range products {
		edges = append(edges, p.edge())
	}
	if err := b.keyed.Swap(nil).finish(ctx, edges); err != nil {
		return err
	}
	var set *cache.Set
	for _, t := range b.caches.to {
		if t.Type == cache.TypeInline || t.Keys() {
			continue
		}
		if set == nil {
			s, err := b.run.Cacheable(ctx, edges...)
			if err != nil {
				return err
			}
			set = &s
		}
		if err := b.exportCache(ctx, t, *set, res); err != nil {
			return err
		}
	}
	return b.exportMounts(ctx, "")
}

func (b *building) exportCache(ctx context.Context, t *cache.To, set cache.Set, res *Result) error {
	step := progress.Start(b.sink, progress.Vertex{Digest: b.id("export cache " + t.Type + t.Place()), Name: t.Name()})
	desc, err := t.Export(ctx, b.opt.Store, b.images.Registry(), set, func(line string, done bool) {
		step.Status(line, 0, 0, done)
	})
	step.Done(err)
	switch {
	case t.IgnoreFailure(ctx, err):
		return nil
	case err == nil && desc.Digest != "":
		res.Cache = &desc
		data, err := json.Marshal(desc)
		if err != nil {
			return err
		}
		if _, told := res.Response[exporterResponseManifestDesc]; !told || t.Type == cache.TypeLocal { // whose client writes the index
			res.respond(map[string]string{exporterResponseManifestDesc: string(data)})
		}
	}
	return err
}

// closeCaches ends the imports and has the record tell what became of them.
func (b *building) closeCaches() {
	b.caches.close()
	b.record.CacheFrom = b.caches.reports()
}
