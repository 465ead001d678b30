package engine

import (
	"context"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// Foreign holds results that another store gave out; [cache.Import] is one. Keys mean the same on
// every machine. It is asked after the store, from many goroutines.
type Foreign interface {
	// Name is how messages and records call it. Origin says where it is, so that two of the same origin are
	// written by the same people.
	Name() string
	Origin() string
	// Result looks a result up.
	Result(ctx context.Context, key string) (*cache.Found, bool)
	// Ahead tells of keys that are likely to be looked up. It does not wait.
	Ahead(keys []string)
	// Memo looks a digest of a selection of files up, by the keys of the result that has them and of the selection.
	Memo(ctx context.Context, of, key string) (digest.Digest, bool)
	// Forget tells that such a digest is not that of the files.
	Forget(of, key string)
	// Lines are the lines of the key of what was last at a place of a Dockerfile ("[builder 2/4]"),
	// or nil.
	Lines(ctx context.Context, place string) []string
	// Fetch brings the blob of a layer that it holds into the store. An error that is
	// store.ErrDamaged says that results with the layer are not there any more.
	Fetch(ctx context.Context, s *store.Store, l *cache.Layer, progress func(current, total int64)) error
	// Distrust tells that a blob turned out not to be the layer that it is said to be. It reports whether it
	// was Foreign that said it, which has no results any more then.
	Distrust(ctx context.Context, blob digest.Digest, why error) bool
	// Used is told of a result that was used.
	Used()
}

// elsewhere is what a run knows of imported caches, and for exported ones.
type elsewhere struct {
	mu       sync.Mutex
	adopted  map[Key]*adoption
	fetching map[layer.ID]*shared // what knows how to fetch layers
	memos    map[string]known     // what was asked for of digests of files
	asked    map[Key]bool         // results that caches were asked for
	missed   int                  // those that nobody had
}

// known is what is known of a selection of files of a node.
type known struct {
	n      *node
	digest digest.Digest
	lent   bool // an imported cache had it
}

// adoption is a result from elsewhere that has become one of this run: its layers are named in the
// store, and fetched when somebody needs them.
type adoption struct {
	from   Foreign
	key    Key
	slot   string
	result store.Result
	bases  bool      // some layers only the images can fetch that the result stands on
	needs  []*shared // what fetches the others
}

// foreign gives the result of a node that the store does not have from elsewhere, if somebody has it.
func (r *Run) foreign(ctx context.Context, n *node, id identity, cold bool) (*outcome, bool, error) {
	a, err := r.adopt(ctx, n, id)
	if err == nil && a == nil {
		err = r.askAhead(ctx, n, id)
	}
	if err != nil || a == nil {
		return nil, false, err
	}
	a.from.Used()
	if a.result.Planned {
		out, err := r.replan(ctx, n, id, a.result, a.from.Name(), cold)
		return out, err == nil, err
	}
	if a.bases {
		images, err := r.baseImages(ctx, n)
		if err != nil {
			return nil, false, err
		}
		a.needs = append(a.needs, images...)
	}
	r.elsewhere.add(a)
	r.tellCached(n)
	out := fromRecord(a.result)
	r.recordCached(n, id.key, a.from.Name(), out)
	r.own(a.needs...).made(out.outputs)
	return out, true, nil
}

// adopt looks a key up elsewhere and names the layers of what it finds in the store. It returns nil
// when nobody has it.
func (r *Run) adopt(ctx context.Context, n *node, id identity) (*adoption, error) {
	for _, f := range r.believes.Load().foreign {
		found, ok := f.Result(ctx, string(id.key))
		if !ok || !r.hasBases(n, found) || found.Result.Planned && n.v.Op.GetExec() != nil { // running a process is no planning
			continue
		}
		r.borrowed.Store(true)
		a := &adoption{from: f, key: id.key, slot: r.slot(n), result: found.Result}
		a.result.Lines = id.lines
		for _, layers := range found.Outputs {
			var snap layer.Snapshot
			for _, l := range layers {
				lid, err := r.adoptLayer(ctx, n, a, l)
				if err != nil {
					return nil, err
				}
				snap = append(snap, lid)
			}
			a.result.Outputs = append(a.result.Outputs, snap)
		}
		return a, nil
	}
	return nil, nil
}

// hasBases reports whether the layers that the cache of a result does not hold are those of the images that
// the node stands on. A cache that names others would have the store give away what it does not have itself.
func (r *Run) hasBases(n *node, found *cache.Found) bool {
	type pair struct{ diffID, blob digest.Digest }
	bases := map[pair]bool{}
	for _, in := range r.standsOn(n, map[*node]bool{}) {
		img := in.image.Load()
		if img == nil {
			continue
		}
		for i, l := range img.Manifest.Layers {
			bases[pair{img.DiffIDs[i], l.Digest}] = true
		}
	}
	for _, layers := range found.Outputs {
		for _, l := range layers {
			if !l.Held && !bases[pair{l.DiffID, l.Blob.Digest}] {
				return false
			}
		}
	}
	return true
}

func (e *elsewhere) add(a *adoption) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.adopted == nil {
		e.adopted = map[Key]*adoption{}
	}
	e.adopted[a.key] = a
}

// once gives what knows how to fetch a layer, and has it made by set if there is nothing.
func (e *elsewhere) once(id layer.ID, set func() *shared) *shared {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fetching == nil {
		e.fetching = map[layer.ID]*shared{}
	}
	if e.fetching[id] == nil {
		e.fetching[id] = set()
	}
	return e.fetching[id]
}

// adoptLayer names a layer of a result in the store and says how it is fetched.
func (r *Run) adoptLayer(ctx context.Context, n *node, a *adoption, l *cache.Layer) (layer.ID, error) {
	s := r.Engine.opt.Store
	id, err := s.BlobLayerOf(ctx, l.DiffID, l.Blob, l.Created)
	if err != nil {
		return "", err
	}
	here, err := s.Here(ctx, layer.Snapshot{id})
	if err != nil || here {
		return id, err
	}
	if !l.Held {
		a.bases = true
		return id, nil
	}
	a.needs = append(a.needs, r.elsewhere.once(id, func() *shared {
		own := r.own()
		own.whenOver(s.SetFetch(id, func(ctx context.Context) error {
			metered := meter.Begin(ctx, meter.Fetch, string(id))
			err := r.fetchForeign(ctx, n, a.from, l)
			if err == nil {
				metered(l.Blob.Size, l.Blob.Size)
			}
			return err
		}))
		return own
	}))
	if l.Repository == "" {
		return id, nil
	}
	return id, s.AddSources(ctx, l.Repository, l.Blob.Digest) // others who push the layer there need not send it
}

// fetchForeign fetches a layer as part of a step that is shown as cached all the same. After an error
// the build tries again without what turned out to be gone.
func (r *Run) fetchForeign(ctx context.Context, n *node, from Foreign, l *cache.Layer) error {
	step, id := n.fetches.begin(r, n), l.Blob.Digest.String()
	var got int64
	err := from.Fetch(ctx, r.Engine.opt.Store, l, func(current, total int64) {
		got = current
		step.Status(id, current, total, current == total)
	})
	if err == nil || ctx.Err() != nil {
		n.fetches.end(err)
		return err
	}
	if got > 0 {
		step.Status(id, got, got, true) // a display does not show the end of a step with one that is open
	}
	n.fetches.end(context.Canceled) // it will run, in the next attempt
	r.tellForeign(from, l.Blob.Digest, err)
	return err
}

// tellForeign shows what is wrong with a layer of a cache.
func (r *Run) tellForeign(from Foreign, blob digest.Digest, err error) {
	name := "importing cache layer " + blob.String() + " from " + from.Name()
	progress.Start(r.sink, progress.Vertex{Digest: digest.FromString(name), Name: name}).Done(err)
}

// sharedStep is the step of a cached node whose layers are fetched, as long as they overlap.
type sharedStep struct {
	mu    sync.Mutex
	users int
	step  *progress.Step
}

func (s *sharedStep) begin(r *Run, n *node) *progress.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users == 1 {
		s.step = r.start(n)
	}
	return s.step
}

func (s *sharedStep) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 || err != nil {
		s.step.Cached()
		s.step.Done(err)
	}
}

// baseImages evaluates the images that a node's layers stand on: only they know how to fetch theirs.
func (r *Run) baseImages(ctx context.Context, n *node) (needs []*shared, err error) {
	for _, img := range r.standsOn(n, map[*node]bool{}) {
		if isImage(img) {
			if _, err := img.result(ctx); err != nil {
				return nil, err
			}
			needs = append(needs, img.src.shared)
		}
	}
	return needs, nil
}

// standsOn lists a node and all those whose layers can be among its own.
func (r *Run) standsOn(n *node, seen map[*node]bool) []*node {
	if n == nil || seen[n] {
		return nil
	}
	seen[n] = true
	all := []*node{n}
	uses, err := n.uses()
	if err != nil {
		return all // evaluating it will tell
	}
	for i, u := range uses {
		if u.whole {
			all = append(all, r.standsOn(n.inputs[i].n, seen)...)
		}
	}
	return all
}

// isImage reports whether a node is an image, from a registry or from a layout.
func isImage(n *node) bool {
	id := n.v.Op.GetSource().GetIdentifier()
	return strings.HasPrefix(id, schemeImage) || strings.HasPrefix(id, schemeLayout)
}

// remember keeps the digest of a selection for an exported cache.
func (r *Run) remember(n *node, d digested) {
	r.elsewhere.mu.Lock()
	defer r.elsewhere.mu.Unlock()
	if r.elsewhere.memos == nil {
		r.elsewhere.memos = map[string]known{}
	}
	r.elsewhere.memos[d.memo] = known{n, d.digest, d.lent}
}

// isRecorded reports whether what a source gives is recorded, as the result of any other vertex.
func isRecorded(src *pb.SourceOp) bool {
	kind, err := kindOf(src)
	return err == nil && kind.value == nil
}

// foreignMemo looks the digest of a selection up elsewhere. What is found is remembered here, too.
func (r *Run) foreignMemo(ctx context.Context, of Key, memo string) (digest.Digest, bool, error) {
	for _, f := range r.believes.Load().foreign {
		if d, ok := f.Memo(ctx, string(of), memo); ok {
			r.borrowed.Store(true)
			return d, true, r.putMemo(ctx, memo, d.String())
		}
	}
	return "", false, nil
}

// foreignLines are the lines of the key of what others had last at the place of a node.
func (r *Run) foreignLines(ctx context.Context, n *node) []string {
	for _, f := range r.believes.Load().foreign {
		if lines := f.Lines(ctx, place(n)); lines != nil {
			return lines
		}
	}
	return nil
}

// keepForeign records the results from elsewhere of which all layers are here by now.
func (r *Run) keepForeign(ctx context.Context) error {
	r.elsewhere.mu.Lock()
	defer r.elsewhere.mu.Unlock()
	for _, a := range r.elsewhere.adopted {
		here := true
		for _, snap := range a.result.Outputs {
			ok, err := r.Engine.opt.Store.Here(ctx, snap)
			if err != nil {
				return err
			}
			here = here && ok
		}
		if !here {
			continue
		}
		if err := r.putResult(ctx, a.key, a.slot, a.result); err != nil {
			return err
		}
	}
	return nil
}
