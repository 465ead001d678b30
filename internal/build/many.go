package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

// Named is one of several builds. The name is shown with each step, "[NAME 2/5] RUN ...", and in errors; another
// build of the same call has its result as a context with "target:NAME".
type Named struct {
	Name    string
	Request Request
}

// Build carries out one build. When it fails no image is named, and no output file that it was to
// write is left half-written.
func (b *Builder) Build(ctx context.Context, req Request, sink progress.Sink) (*Result, error) {
	all, err := b.BuildAll(ctx, []Named{{Request: req}}, sink)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// BuildAll carries out several builds at the same time, each as a run of the engine: what they share runs once. Each has
// its own outputs, caches, secrets and permissions, and a record and a log of its own. What one was asked for is
// written when that one is done; the first that fails ends all others, and the error says which it was. The
// results are in the order of the requests, and nil for those that were not done then.
func (b *Builder) BuildAll(ctx context.Context, requests []Named, sink progress.Sink) (_ []*Result, err error) {
	j, err := b.newJob(ctx, requests, sink)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.openRecords(ctx); err != nil {
		return nil, err
	}
	j.tellAbsent(sink)
	traced := j.trace()
	watched, within := b.opt.Store.Limited(ctx)
	for _, b := range j.all {
		if b.req.Call == "" {
			b.caches.start(watched, b)
		}
	}
	err = j.attempt(watched)
	if j.doubts(err) && watched.Err() == nil && !j.streamed() {
		err = j.attempt(watched)
	}
	for n := 0; n < maxRepairs && errors.Is(err, store.ErrDamaged) && watched.Err() == nil && !j.streamed(); n++ {
		// The damaged entry is gone now: what it was for is a miss, and is made again.
		err = j.attempt(watched)
	}
	j.saveMounts(watched, err)
	for _, b := range j.all {
		b.closeCaches()
	}
	failure := within(err)
	traced()
	if ferr := j.forgetFailed(ctx); ferr != nil {
		j.all[0].say(fmt.Sprintf("WARNING: removing what earlier builds have kept of failed steps: %v", ferr))
	}
	results, err := make([]*Result, len(j.all)), failure
	for i, b := range j.all {
		results[i] = b.done
		err = errors.Join(err, b.keepGraph(ctx), b.record.finish(ctx, b.opt.Store, b.run, b.done, j.failureOf(b, failure)))
		if b.req.Ended != nil {
			b.req.Ended(&b.record.Record)
		}
	}
	return results, err
}

// job is what builds of one call have in common.
type job struct {
	*Builder
	all     []*building
	many    bool                     // there are several
	imports map[string]*cache.Import // by what they were asked for

	mu    sync.Mutex
	dests map[string]*sync.Mutex // by the path of an output: one writes at a time
	cold  bool                   // nothing is built with warm caches any more

	// Of an attempt:
	since  time.Time
	screen *engine.Screen
	dirs   *directories
	end    context.CancelCauseFunc
	runs   map[*engine.Run]*building
	first  *building // that failed, and what of
	failed error
}

// newJob prepares all builds, and finds what cannot be served before anything is done.
func (b *Builder) newJob(ctx context.Context, requests []Named, sink progress.Sink) (_ *job, err error) {
	j := &job{Builder: b, many: len(requests) > 1, imports: map[string]*cache.Import{}, dests: map[string]*sync.Mutex{}}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	var names []string
	for _, r := range requests {
		if slices.Contains(names, r.Name) {
			return nil, fmt.Errorf("two builds are named %q", r.Name)
		}
		names = append(names, r.Name)
	}
	for _, r := range requests {
		bu := &building{Builder: b, job: j, name: r.Name, req: r.Request, show: sink}
		if j.many {
			bu.show = progress.Prefixed(sink, r.Name)
		}
		j.all = append(j.all, bu)
		if err := bu.prepare(ctx, names); err != nil {
			return nil, j.named(bu, err)
		}
	}
	if err := j.link(); err != nil {
		return nil, err
	}
	for _, b := range j.all {
		b.shareCaches()
	}
	for i, b := range j.all {
		b.sessions = j.sessionsOf(i)
	}
	return j, nil
}

// prepare reads what the request says, and opens what it brings along.
func (b *building) prepare(ctx context.Context, names []string) (err error) {
	if err := b.req.check(); err != nil {
		return err
	}
	if b.names, err = b.req.names(b.req.Outputs...); err != nil {
		return err
	}
	if b.in, err = b.req.prepare(ctx, b.opt.Store, names); err != nil {
		return err
	}
	b.req.watchStreams()
	b.images = b.opt.Images
	switch c := b.req.Client; {
	case c != nil && c.Engine():
		b.images = b.images.With(c.Registries())
	case c != nil:
		b.images = b.images.As(c.Account(), c.Registries())
	case b.req.Registries != nil:
		b.images = b.images.With(b.req.Registries)
	}
	imports := b.job.imports
	if b.req.Call != "" { // it loads none
		imports = map[string]*cache.Import{}
	}
	b.caches, err = b.openCaches(imports)
	return err
}

func (j *job) close() {
	for _, b := range j.all {
		if b.in != nil {
			b.in.close() //nolint:errcheck // a temporary directory: what stays is swept with the lease
		}
	}
}

// named says in an error which build it is of, where there are several.
func (j *job) named(b *building, err error) error {
	if !j.many {
		return err
	}
	return fmt.Errorf("target %s: %w", b.name, err)
}

// link finds the builds whose results are contexts of others.
func (j *job) link() error {
	for _, b := range j.all {
		b.links = map[string]*building{}
		for name, target := range b.in.targets {
			for _, other := range j.all {
				if other.name == target {
					b.links[name] = other
					other.linked = true
				}
			}
		}
	}
	for _, b := range j.all {
		if b.reaches(b, map[*building]bool{}) {
			return fmt.Errorf("target %s is a context of itself, by way of its contexts", b.name)
		}
	}
	return nil
}

// reaches reports whether one of the contexts, or theirs, is another build's result.
func (b *building) reaches(other *building, seen map[*building]bool) bool {
	for _, l := range b.links {
		if l == other {
			return true
		}
		if !seen[l] {
			seen[l] = true
			if l.reaches(other, seen) {
				return true
			}
		}
	}
	return false
}

// uses reports whether other's result is a context of the build.
func (b *building) uses(other *building) bool {
	for _, l := range b.links {
		if l == other {
			return true
		}
	}
	return false
}

// shareCaches has builds that nobody asked for, as they are contexts of this one, ask its caches, unless they have some of their own: to
// whoever writes a bake file they are parts of it.
func (b *building) shareCaches() {
	for _, l := range b.links {
		if len(l.req.CacheFrom) == 0 && !slices.ContainsFunc(l.req.outputs(), func(o Output) bool { return o.Type != OutputCacheOnly }) {
			for _, i := range b.caches.from {
				if !slices.Contains(l.caches.from, i) {
					l.caches.from = append(l.caches.from, i)
				}
			}
			l.shareCaches()
		}
	}
}

// sessionsOf tells the directories of a build from those that others have by the same names, as sessions do in
// BuildKit: directories that are the same have the same one.
func (j *job) sessionsOf(i int) map[string]string {
	all := map[string]string{}
	for name, dir := range j.all[i].in.dirs {
		first := slices.IndexFunc(j.all[:i], func(b *building) bool {
			other, ok := b.in.dirs[name]
			return ok && absolute(other) == absolute(dir)
		})
		if first < 0 {
			first = i
		}
		if first > 0 { // those of the first are as they are alone
			all[name] = fmt.Sprintf("local-%d", first+1)
		}
	}
	return all
}

// openRecords begins the builds' records.
func (j *job) openRecords(ctx context.Context) error {
	for i, b := range j.all {
		rec, err := b.newRecord(ctx, b.name, b.req, b.in.file)
		if err != nil {
			for _, b := range j.all[:i] {
				err = errors.Join(err, b.record.finish(ctx, b.opt.Store, nil, nil, err))
			}
			return err
		}
		b.record = rec
		b.sink = rec.times.Before(progress.Multi(b.show, rec.log))
	}
	return nil
}

// tellAbsent tells once of a cache that is left out, as there is none of its type in this environment.
func (j *job) tellAbsent(sink progress.Sink) {
	told := map[string]bool{}
	for _, b := range j.all {
		for _, e := range slices.Concat(b.req.CacheFrom, b.req.CacheTo) {
			why := e.Absent()
			if why == "" || told[why] || b.req.Call != "" {
				continue
			}
			told[why] = true
			name := "WARNING: " + why
			progress.Start(progress.Multi(sink, b.record.log), progress.Vertex{Digest: digest.FromString(name), Name: name}).Done(nil)
		}
	}
}

// attempt carries out all builds that are not done. The first that fails ends the others.
func (j *job) attempt(ctx context.Context) (err error) {
	running, end := context.WithCancelCause(ctx)
	j.since, j.screen, j.dirs, j.end = time.Now(), engine.NewScreen(), newDirectories(j.opt.Store), end
	j.runs, j.first, j.failed = map[*engine.Run]*building{}, nil, nil
	for _, b := range j.all {
		b.run, b.out, b.solved, b.read = nil, nil, make(chan struct{}), nil
	}
	var all sync.WaitGroup
	for _, b := range j.all {
		all.Go(func() {
			if err := b.survive(running); err != nil {
				j.fail(b, err)
			}
		})
	}
	all.Wait()
	if err = j.verdict(ctx); err != nil {
		j.keepFailed(ctx, err)
	}
	for r := range j.runs { // all at last: some use what others have
		err = errors.Join(err, r.Close())
	}
	for _, b := range j.all {
		b.forget()
	}
	end(nil)
	return errors.Join(err, j.dirs.close())
}

// survive makes a panic an error: what a frontend or a client makes up ends its build alone.
func (b *building) survive(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a bug of slipway: panic: %v\n%s", r, debug.Stack())
		}
	}()
	return b.build(meter.With(ctx, b.record.meter))
}

// newRun begins a run of a build, which the attempt closes.
func (b *building) newRun(ctx context.Context, opt engine.RunOptions) *engine.Run {
	j := b.job
	r := j.engine.NewRun(ctx, opt)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.runs[r] = b
	return r
}

// fail ends all builds because of one: that whose step failed, or else that which has the error. Of several errors the first counts.
func (j *job) fail(b *building, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return
	}
	j.first, j.failed = b, err
	var failure *engine.Failure
	if errors.As(err, &failure) && j.runs[failure.Run] != nil {
		j.first = j.runs[failure.Run]
	}
	j.end(err)
}

// verdict is the error that ended the builds. The end of their context is none of them's.
func (j *job) verdict(ctx context.Context) error {
	switch {
	case j.failed == nil:
		return nil
	case ctx.Err() != nil:
		j.first = nil
		return j.failed
	}
	return j.named(j.first, j.failed)
}

// failureOf is what a build's record says of why it was not done.
func (j *job) failureOf(b *building, err error) error {
	switch {
	case b.done != nil && j.many:
		return nil
	case !j.many || b == j.first:
		return err
	case j.first != nil:
		return fmt.Errorf("%w: target %s failed", context.Canceled, j.first.name)
	}
	return err
}

// streamed reports whether a build cannot begin again.
func (j *job) streamed() bool {
	return slices.ContainsFunc(j.all, func(b *building) bool { return b.done == nil && b.req.once() })
}

// alone has fn called while no other build writes to the same place.
func (j *job) alone(dest string, fn func() error) error {
	if dest == "" {
		return fn()
	}
	j.mu.Lock()
	m := j.dests[absolute(dest)]
	if m == nil {
		m = &sync.Mutex{}
		j.dests[absolute(dest)] = m
	}
	j.mu.Unlock()
	m.Lock()
	defer m.Unlock()
	return fn()
}

// absolute is a path by which a directory or file is known.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// directories are those that builds read, each scanned once.
type directories struct {
	store *store.Store
	mu    sync.Mutex
	of    map[string]*local.Dir // by the path, and by whether digests are remembered
}

func newDirectories(s *store.Store) *directories {
	return &directories{store: s, of: map[string]*local.Dir{}}
}

// open gives the directories of a build as the engine takes them. The digests of files are remembered per
// directory, but for that of the Dockerfile, of which one file is read.
func (d *directories) open(in *inputs) local.Named {
	d.mu.Lock()
	defer d.mu.Unlock()
	contexts := local.Named{}
	for name, path := range in.dirs {
		abs, file := absolute(path), ""
		key := abs
		if name == dockerfileName {
			key = dockerfileName + " " + abs
		} else {
			file = d.store.ContextFile(abs)
		}
		if d.of[key] == nil {
			d.of[key] = local.NewDir(path, file)
		}
		contexts[name] = d.of[key]
	}
	return contexts
}

func (d *directories) close() (err error) {
	for _, dir := range d.of {
		err = errors.Join(err, dir.Close())
	}
	return err
}
