// Package engine evaluates LLB graphs: it finds what a target needs, gives every vertex a key,
// looks the key up in the store, and runs what is missing, as much at the same time as the graph
// allows.
//
// # Structure
//
//	plan.go   what a vertex reads of each input: the whole of it, or a selection of files
//	key.go, identify.go   identity: the key of a vertex, from labelled lines
//	run.go, evaluation.go   runs, and the evaluations of one
//	node.go, future.go      a vertex within a run: its key and its result are futures
//	evaluate.go             lookup, execution
//	shared.go, flight.go, granted.go   what runs have in common
//	screen.go, tell.go      what displays and logs are told, of what is shared too
//	keep.go   what is recorded, and when
//	why.go, graph.go        why steps ran, and what later builds will need to know for that
//	failure.go, blame.go    errors
//	exported.go   layers that will be asked for as blobs
//	foreign.go, cacheable.go   results from imported caches, and for exported ones
//	exec.go, file.go, compose.go   the operations
//	warm.go   steps that find directories of their tools warm
//	source.go, image.go, http.go, git.go   the kinds of sources
//
// # Invariants
//
// Only what the target needs is evaluated. A vertex has one key, computed before it runs; equal
// keys run once at a time, whoever asks, unless they are given other secrets. What a copy reads counts by content, so a stage that ran
// again and gave the same files changes nothing after it.
//
// A failure belongs to an evaluation: it ends what that one has begun and nobody else waits for. Every function takes a context;
// nothing is ended by anything else.
//
// The identity of inputs is a [Key], the identity of what came out is a layer.Snapshot; they are
// different types on purpose.
package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/secrets"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
)

// Options are what an engine works with. All fields but DumpKey are required.
type Options struct {
	Store  *store.Store
	Images *imagesource.Source
	Runner sandbox.Runner
	// Fidelity says in what results of Runner may differ from those that root has, and is part of their keys then; "" is in nothing.
	Fidelity string
	// DumpKey, when set, is given the labelled lines of every key.
	DumpKey func(vertex string, lines []string)
}

// Engine evaluates graphs. It is safe for concurrent use.
type Engine struct {
	opt  Options
	http *httpsource.Source
	git  *gitsource.Source
	last atomic.Int64 // number of a run

	// What runs have in common: see [shared].
	mu         sync.Mutex
	flights    map[string]*flight
	landed     map[string]int64 // the last flights that are gone, by their names: as how manieth
	landings   int64
	sources    map[sourceKey]*source
	httpFiles  map[string]*pooled[*httpsource.File]
	gitCommits map[string]*pooled[*gitsource.Commit]
	resolved   map[string]*pooled[*imagesource.Image]
	clamped    map[string]*pooled[layer.ID]
}

// New returns an engine.
func New(opt Options) *Engine {
	return &Engine{
		opt: opt, http: httpsource.New(opt.Store), git: newGit(opt.Store),
		flights: map[string]*flight{}, landed: map[string]int64{}, sources: map[sourceKey]*source{}, httpFiles: map[string]*pooled[*httpsource.File]{},
		gitCommits: map[string]*pooled[*gitsource.Commit]{}, resolved: map[string]*pooled[*imagesource.Image]{}, clamped: map[string]*pooled[layer.ID]{},
	}
}

// RunOptions are what one build brings along.
type RunOptions struct {
	// Contexts are the directories that the build may read; nil: none.
	Contexts local.Contexts
	// Uploads are files that the build brought along; nil: none.
	Uploads httpsource.Uploads
	// Images is what images are found with, for a build that registries know by other credentials; nil: the engine's.
	Images *imagesource.Source
	// Layouts are the image layouts that the build may read; nil: none.
	Layouts imagesource.Layouts
	// Name is how logs of other builds call this one.
	Name string
	// Sink takes the progress events. Log takes those that are for the build's own log alone, as another build has shown
	// them on the same display: it is part of Sink.
	Sink, Log progress.Sink
	// Screen is the display that Sink ends at, for builds that share one; nil: it has its own.
	Screen *Screen
	// Since is when the build began, if that was before its run: what others have asked servers since then holds for it too.
	Since time.Time
	// KeepFailed keeps what a process that fails leaves behind, until the run is closed: see [ExecError].
	KeepFailed bool
	// Platform is what steps run on unless they say otherwise.
	Platform ocispec.Platform
	// MaxProcesses bounds the processes and threads of a step; 0 is a default, -1 no limit.
	MaxProcesses int64
	// AppArmor is the profile of steps that are not insecure, as in [sandbox.Spec].
	AppArmor string
	// UserNS gives steps that are not insecure a user namespace, as in [sandbox.Spec].
	UserNS bool
	// Pull asks registries again for images that are here.
	Pull bool
	// NoCache runs every vertex. (The frontend marks the instructions of a Dockerfile itself, but
	// not all of them: WORKDIR it leaves out.)
	NoCache bool
	// Secrets and SSH are what steps may use, and sources to fetch with; nil: nothing.
	Secrets secrets.Secrets
	SSH     secrets.SSH
	// Entitlements are what steps may do that others may not; nil: nothing.
	Entitlements entitlements.Set
	// Foreign are imported caches, which are asked in their order for what the store does not have. More may come: see [Run.Import].
	Foreign []Foreign
	// Links are runs whose results may be contexts of this one: see [Run.Link].
	Links []*Run
	// Slot is recorded with results: two builds with the same slot are versions of the same thing. The Dockerfile's path is a good one.
	Slot string
	// Earlier finds what an earlier build of the same thing left, which misses are explained with. It is called once, when it is needed;
	// nil, or what it returns nil for: there is none.
	Earlier func() *Earlier
	// Arguments are the names of the build arguments that were given.
	Arguments []string
	// Ignored is how the cache of steps came to be ignored: "--no-cache".
	Ignored string
	// Warm has steps run warm; nil: none does.
	Warm *Warm
	// Bring, unless nil, is called before the run uses a cache mount for the first time: it may put another one in its place. It fails nothing.
	Bring func(ctx context.Context, m cache.Mount)
	// Turns keeps machines from carrying the same step out at the same time; nil: nothing does.
	Turns Turns
	// Ended, unless nil, is told that something became of a vertex, which [Run.Made] may know by now. It must not wait.
	Ended func()
	// TraceFiles gives where the files go that the process of a step opens, by the key of the step; nil: they are not traced.
	TraceFiles func(Key) (*filetrace.Writer, error)
}

// complete puts what gives nothing in the place of what is nil.
func (o *RunOptions) complete() {
	if o.Contexts == nil {
		o.Contexts = local.Named{}
	}
	if o.Uploads == nil {
		o.Uploads = httpsource.UploadedFiles{}
	}
	if o.Layouts == nil {
		o.Layouts = imagesource.LayoutDirs{}
	}
	if o.Secrets == nil {
		o.Secrets = (*secrets.Store)(nil)
	}
	if o.SSH == nil {
		o.SSH = (*secrets.Agents)(nil)
	}
	if o.Earlier == nil {
		o.Earlier = func() *Earlier { return nil }
	}
}

// Value is the filesystem that an output of a vertex holds.
type Value struct {
	// Snapshot are its layers, base first. Those that a file operation gave in this process may
	// not be written anywhere yet: the store writes the form that it is asked for.
	Snapshot layer.Snapshot
	// tree is set for a local source, which has no layers, and for what a file operation of this
	// process gave, whose tree is known without looking at layers.
	tree layer.Tree
	// of is what keeps the layers of the snapshot that are not in the store; nil where all are.
	of *shared
}

// local reports whether the value is a local source.
func (v Value) local() bool { return v.tree != nil && len(v.Snapshot) == 0 }

// Tree returns the files of a value.
func (e *Engine) Tree(ctx context.Context, v Value, need store.Need) (layer.Tree, error) {
	if v.tree != nil {
		return v.tree, nil
	}
	return e.opt.Store.Tree(ctx, v.Snapshot, need)
}

// Platform is what steps run on unless they say otherwise.
func (r *Run) Platform() ocispec.Platform { return r.opt.Platform }

// platform fills a vertex's platform in.
func (r *Run) platform(p *pb.Platform) ocispec.Platform {
	if p == nil || p.OS == "" {
		return r.opt.Platform
	}
	return ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
}
