package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// graphFile is where a build's record has the graph, for later builds to be compared with: a [reasons.Build].
const graphFile = "graph.json"

// thing is what a build is one of, in the words of [store.Store.AddLast].
type thing struct {
	name        string
	exact, like string
}

// clientThing are a client's options that say what it builds, whatever it builds it with.
var clientThing = []string{"source", "filename", "context", "contextkey", "contextsubdir", "dockerfilekey", "vcs:source", "vcs:localdir:context", "vcs:localdir:dockerfile"}

// thing says which builds are versions of the same: those of a Dockerfile. Alike are those of the same target, platforms and name, and the
// same those with the same arguments as well.
func (b *building) thing(ctx context.Context) thing {
	b.once.Do(func() { b.is = b.whatItIs(ctx) })
	return b.is
}

func (b *building) whatItIs(ctx context.Context) thing {
	args := b.arguments()
	like := []string{b.req.Target, strings.Join(b.req.Platforms, ","), b.name}
	name := b.record.File + "\n" + b.record.Context
	if b.req.Client != nil {
		what := []string{b.req.Frontend, b.req.Client.Key(ctx)}
		for _, k := range clientThing {
			what = append(what, b.req.Attrs[k])
		}
		name = "client\n" + strings.Join(what, "\n")
		like = []string{b.req.Attrs["target"], b.req.Attrs["platform"]}
	}
	exact := slices.Clone(like)
	for _, k := range slices.Sorted(maps.Keys(args)) {
		exact = append(exact, k+"="+args[k])
	}
	return thing{name, b.code(exact), b.code(like)}
}

// uncoded is the word for what there is no code of.
const uncoded = "-"

// code is a word for what must not be readable.
func (b *building) code(texts []string) string {
	masked, err := b.opt.Store.Masked([]string{fmt.Sprintf("environment THING=%q", texts)})
	if err != nil {
		return uncoded
	}
	sum := sha256.Sum256([]byte(masked[0]))
	return hex.EncodeToString(sum[:8])
}

// arguments are the build arguments that were given.
func (b *building) arguments() map[string]string {
	args := maps.Clone(b.req.BuildArgs)
	if args == nil {
		args = map[string]string{}
	}
	for k, v := range b.req.Attrs {
		if arg, ok := strings.CutPrefix(k, "build-arg:"); ok {
			args[arg] = v
		}
	}
	return args
}

// ignored is how the cache of steps came to be ignored.
func (b *building) ignored() string {
	stages, is := b.req.Attrs["no-cache"]
	switch {
	case b.req.NoCache || is && stages == "":
		return "--no-cache"
	case is:
		return "--no-cache-filter"
	}
	return "its cache is ignored"
}

// earlier finds the build to compare with: the last one that was the same, or else alike, or else any of the thing.
func (b *building) earlier(ctx context.Context) *engine.Earlier {
	t := b.thing(ctx)
	for _, l := range t.last(b.opt.Store) {
		if l.ID != b.record.ID {
			r := Recorded{dir: recordDir(b.opt.Store, l.ID)}
			if g, err := r.Graph(); err == nil && r.read() == nil {
				b.record.Earlier, g.Other = l.ID, l.Like != t.like
				return earlierOf(&r, g)
			}
		}
	}
	return nil
}

// last lists the builds of a thing: those that are the same, then those that are alike, then others, each the newest first.
func (t thing) last(s *store.Store) []store.LastBuild {
	all := s.LastBuilds(t.name)
	rank := func(l store.LastBuild) int {
		switch {
		case l.Exact == t.exact:
			return 0
		case l.Like == t.like:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b store.LastBuild) int { return rank(a) - rank(b) })
	return all
}

// earlierOf is what a record says that misses are explained with.
func earlierOf(r *Recorded, g *reasons.Build) *engine.Earlier {
	e := &engine.Earlier{Build: g, Steps: map[engine.Key]engine.StepRecord{}, Failed: map[string]bool{}, Error: r.Error}
	for _, s := range r.Steps {
		if s.Key == "" { // what stands on it was cached
			continue
		}
		if s.Error == "" {
			e.Steps[s.Key] = s
		} else {
			e.Failed[s.Name] = true
		}
	}
	for _, c := range r.CacheFrom {
		e.Caches = append(e.Caches, c.Name)
	}
	lists := sync.OnceValue(r.Lists)
	e.List = func(d digest.Digest) *reasons.List { return lists()[d] }
	return e
}

// Graph is what the build has left of its graph. A build that runs, or that was killed, has left none.
func (r *Recorded) Graph() (*reasons.Build, error) {
	f, err := os.Open(filepath.Join(r.dir, graphFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g := &reasons.Build{}
	return g, json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(g)
}

// Lists are the lists of files that the build has left, by the digests in its graph.
func (r *Recorded) Lists() reasons.Lists { return readLists(r.dir) }

// keepGraph leaves the graph of a run in the record. A build that failed before there was one leaves none: the one before stays the last.
func (b *building) keepGraph(ctx context.Context) error {
	if b.run == nil || b.record.forget {
		return nil
	}
	s, t := b.opt.Store, b.thing(ctx)
	is := store.LastBuild{ID: b.record.ID, Exact: t.exact, Like: t.like, Graph: b.code([]string{"graph", b.run.GraphSum().String()})}
	all := t.last(s)
	same := slices.IndexFunc(all, func(l store.LastBuild) bool { return l.Graph == is.Graph && is.Graph != uncoded })
	if same >= 0 && linkFacts(b.record.path, recordDir(s, all[same].ID)) {
		return s.Again(ctx, s.Root(), func() error { return s.AddLast(t.name, is) })
	}
	g, err := b.run.Graph()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(g.Vertices, func(v reasons.Vertex) bool { return v.IsStep() }) {
		return nil
	}
	g.Codes = b.code([]string{"codes"})
	data, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return s.Again(ctx, s.Root(), func() error {
		if err := os.WriteFile(filepath.Join(b.record.path, graphFile), data, 0o600); err != nil {
			return err
		}
		earlier := ""
		if len(all) > 0 {
			earlier = recordDir(s, all[0].ID)
		}
		if err := keepLists(b.record.path, earlier, g.FilesRead(), b.run.List); err != nil {
			return err
		}
		return s.AddLast(t.name, is)
	})
}

// linkFacts gives a record the graph of another one, and its lists. It reports whether it has: what is left of it then changes nothing that
// the other one has.
func linkFacts(dir, earlier string) bool {
	there := namesIn(earlier)
	if !there[graphFile] || there[store.ImportedMark] {
		return false
	}
	for file := range there {
		if strings.HasPrefix(file, listsPrefix) && !linkAll(dir, earlier, file, there) {
			return false
		}
	}
	return os.Link(filepath.Join(earlier, graphFile), filepath.Join(dir, graphFile)) == nil
}
