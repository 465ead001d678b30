package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/verifier"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/sandbox"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// Options are what a builder works with. All fields but DumpKey and Registry are required.
type Options struct {
	Store  *store.Store
	Images *imagesource.Source
	Runner sandbox.Runner
	// Fidelity says in what results of Runner may differ from those that root has; "" is in nothing.
	Fidelity string
	// DumpKey, when set, is given the labelled lines of every key.
	DumpKey func(vertex string, lines []string)
	// Registry is what pushes; nil when nothing will be pushed.
	Registry *registry.Client
	// Unrecorded has no build leave a record but those that are given one.
	Unrecorded bool
	// Serve has frontends that are images drive builds; nil: there are none.
	Serve frontend.Serve
}

// Builder carries out builds. It is safe for concurrent use.
type Builder struct {
	opt      Options
	engine   *engine.Engine
	requests *requests
}

// New returns a builder.
func New(opt Options) *Builder {
	return &Builder{opt: opt, requests: &requests{}, engine: engine.New(engine.Options{
		Store: opt.Store, Images: opt.Images, Runner: opt.Runner, DumpKey: opt.DumpKey, Fidelity: opt.Fidelity,
	})}
}

// maxRepairs bounds how many damaged entries of the store one build makes anew. Each is dropped
// when it is found; a disk that damages them as fast is beyond repair.
const maxRepairs = 100

// building is one build under way.
type building struct {
	*Builder
	job      *job
	name     string // among those of the job; "" when it is the only one
	req      Request
	in       *inputs
	links    map[string]*building // whose results are contexts, by the contexts' names
	linked   bool                 // it is such a one
	sessions map[string]string    // see [job.sessionsOf]
	show     progress.Sink        // the display
	sink     progress.Sink        // the display and the record's log
	names    []string             // full image names
	images   *imagesource.Source  // as whoever asks for the build is known to registries
	record   *record
	caches   *caches
	done     *Result // once it is delivered
	once     sync.Once
	is       thing // see [building.thing]

	// Of the last attempt:
	run    *engine.Run
	attrs  map[string]string // the frontend's options
	asking frontend.Options  // what it is asked with
	out    *gw.Result        // what the frontend made of them, once solved is closed
	// solved tells those that wait for out.
	solved chan struct{}
	// byPlatform says that the frontend's result is a map of platforms, which may be just one
	// (BUILDKIT_MULTI_PLATFORM): then images are in an index, and files in directories.
	byPlatform bool

	keyed atomic.Pointer[keyed] // what writes caches of mode=keys, while it does

	mu   sync.Mutex
	read []graph.Edge // what the frontend asked for, for provenance
	held []held       // see [building.note]
}

// blobs reports whether the result is needed as an image.
func (r *Request) blobs() bool {
	return slices.ContainsFunc(r.outputs(), func(o Output) bool { return o.IsImage() })
}

// outputs are those of the request: without any it is an image here, and nothing for a client.
func (r *Request) outputs() []Output {
	if len(r.Outputs) == 0 && r.Client == nil {
		return []Output{{Type: OutputImage}}
	}
	return r.Outputs
}

func (b *building) build(ctx context.Context) (err error) {
	if b.done != nil && !b.linked {
		return nil
	}
	host := platforms.Normalize(platforms.DefaultSpec())
	opt := engine.RunOptions{
		Name:         b.called(),
		Images:       b.images,
		KeepFailed:   b.req.Evaluate != nil || b.req.KeepFailed,
		Sink:         b.sink,
		Log:          b.record.times.Before(b.record.log),
		Screen:       b.job.screen,
		Since:        b.job.since,
		Platform:     host,
		MaxProcesses: b.req.MaxProcesses,
		AppArmor:     b.req.AppArmor,
		UserNS:       b.req.UserNS,
		Pull:         b.req.Pull,
		NoCache:      b.req.NoCache,
		Slot:         b.in.file,
		Earlier:      func() *engine.Earlier { return b.earlier(ctx) },
		Arguments:    slices.Sorted(maps.Keys(b.arguments())),
		Ignored:      b.ignored(),
		Foreign:      b.caches.foreign(),
		TraceFiles:   b.traceFiles(),
		Warm:         b.warm(),
		Bring:        b.bringMount,
		Ended:        b.stepEnded,
	}
	err = b.req.allow(&opt)
	if err != nil {
		return err
	}
	if opt.Links, err = b.await(ctx); err != nil {
		return err
	}
	if opt.Turns, err = b.turns(); err != nil {
		return err
	}
	if err := b.fetchDockerfile(ctx, opt); err != nil {
		return err
	}
	b.in.bring(&opt, b.job.dirs)
	b.run = b.newRun(ctx, opt)
	b.keyed.Store(b.startKeyed(ctx))
	defer func() {
		if err != nil {
			b.keyed.Swap(nil).giveUp(ctx)
		} else {
			err = b.keyed.Swap(nil).finish(ctx, nil)
		}
	}()
	res := &Result{ID: b.record.ID, Names: b.names, Descriptors: map[int]ocispec.Descriptor{}}
	out, err := b.solve(ctx, res)
	if err != nil {
		return err
	}
	switch {
	case b.done != nil: // by an earlier attempt; others need what the frontend made
		return nil
	case b.req.Call != "":
		res.Answer = out.Metadata
	default:
		if err := b.deliver(ctx, out, res); err != nil {
			return err
		}
		if b.req.VerifyCache {
			if res.Verified, err = b.verify(ctx, out); err != nil {
				return err
			}
		}
		if b.req.VerifyWarm && opt.Warm != nil {
			if res.VerifiedWarm, err = b.verifyWarm(ctx, opt, out); err != nil {
				return err
			}
		}
		res.Offer = b.offerWarm(ctx, out)
		res.Took = time.Since(b.record.Started)
	}
	b.done = res
	return nil
}

// called is how logs of other builds call this one.
func (b *building) called() string {
	if !b.job.many {
		return "build " + b.record.ID
	}
	return fmt.Sprintf("target %s (build %s)", b.name, b.record.ID)
}

// id is the digest by which a display knows a step of this build that is no vertex.
func (b *building) id(step string) digest.Digest { return digest.FromString(b.name + "\n" + step) }

// solve has the frontend read the Dockerfile, and tells those that wait for what it makes of it.
func (b *building) solve(ctx context.Context, res *Result) (*gw.Result, error) {
	attrs, inputs, err := b.link()
	if err != nil {
		return nil, err
	}
	b.attrs = attrs
	opt := frontend.Options{
		Run: b.run, Sink: b.sink, Serve: b.opt.Serve, Attrs: attrs, Defaults: b.req.Defaults, Inputs: inputs, Session: b.req.Session, Sessions: b.sessions,
		Platform: b.run.Platform(), SourcePolicies: b.req.SourcePolicies,
		Import: b.importMore, Decide: b.req.decide(),
		Warn: func(vertex digest.Digest, message string, opt gw.WarnOpts) {
			b.warn(res, vertex, message, opt)
		},
		Solved: func(ref *frontend.Ref) {
			b.note(ref)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.read = append(b.read, ref.Edge())
		},
	}
	b.asking = opt
	out, err := b.evaluate(ctx, opt)
	if err != nil {
		return nil, b.noDockerfile(err)
	}
	b.out = out
	if b.req.Call != "" && b.linked { // what others have of it is no answer
		opt.Attrs = maps.Clone(attrs)
		delete(opt.Attrs, optRequest)
		opt.Warn = nil
		if b.out, err = b.evaluate(ctx, opt); err != nil {
			return nil, err
		}
	}
	close(b.solved)
	return out, nil
}

// decide is who decides about sources besides rules; nil is nobody.
func (r *Request) decide() frontend.Decide {
	if r.Client == nil || r.PolicySession == "" {
		return nil
	}
	return func(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
		return r.Client.CheckPolicy(ctx, r.PolicySession, req)
	}
}

// evaluate finds what is to be built.
func (b *building) evaluate(ctx context.Context, opt frontend.Options) (*gw.Result, error) {
	switch r := &b.req; {
	case r.Evaluate != nil:
		return r.Evaluate(ctx, frontend.New(opt))
	case r.Definition != nil:
		return frontend.New(opt).Solve(ctx, gw.SolveRequest{Definition: r.Definition})
	case r.Frontend == "" || r.Frontend == frontendDockerfile:
		opt.Asked = b.rootRequest()
		return frontend.Build(ctx, opt)
	}
	return frontend.New(opt).Solve(ctx, gw.SolveRequest{Frontend: b.req.Frontend, FrontendOpt: opt.Attrs, FrontendInputs: opt.Inputs})
}

// frontendDockerfile is BuildKit's name of the frontend that is linked in.
const frontendDockerfile = "dockerfile.v0"

// noDockerfile says which Dockerfile was looked for, when there is none.
func (b *building) noDockerfile(err error) error {
	if b.in.file == "" || b.req.Client != nil || !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "failed to read dockerfile") {
		return err
	}
	return fmt.Errorf("%w\n  there is no %s: name the Dockerfile with -f FILE", err, b.in.file)
}

// deliver evaluates what the frontend made, and brings it to where the request wants it.
func (b *building) deliver(ctx context.Context, out *gw.Result, res *Result) error {
	if err := b.verifyPlatforms(ctx, out, res); err != nil {
		return err
	}
	if err := b.scan(ctx, out); err != nil {
		return err
	}
	b.willAttest(out)
	products, err := b.products(ctx, out)
	if err != nil {
		return err
	}
	if err := b.attest(ctx, out, products); err != nil {
		return err
	}
	if b.req.TellProvenance != "" {
		if res.Provenance, err = b.tell(ctx, products); err != nil {
			return err
		}
	}
	if err := b.inlineCaches(ctx, products); err != nil {
		return err
	}
	if err := b.export(ctx, products, res); err != nil {
		return b.run.Blame(ctx, err)
	}
	if err := b.exportCaches(ctx, products, res); err != nil {
		return b.run.Blame(ctx, err)
	}
	for k, v := range out.Metadata {
		if strings.HasPrefix(k, "frontend.") {
			res.respond(map[string]string{k: string(v)})
		}
	}
	return nil
}

// verifyPlatforms warns of a result that is not for the platforms that were asked for.
func (b *building) verifyPlatforms(ctx context.Context, out *gw.Result, res *Result) error {
	if err := verifier.CaptureFrontendOpts(b.attrs, out); err != nil {
		return err
	}
	warnings, err := verifier.CheckInvalidPlatforms(ctx, out)
	for _, w := range warnings {
		b.warn(res, b.id("verifying platforms"), string(w.Short), gw.WarnOpts{})
	}
	return err
}

// verify carries out again what was cached of the result, which is delivered by then.
func (b *building) verify(ctx context.Context, out *gw.Result) ([]engine.Verified, error) {
	products, err := b.products(ctx, out)
	if err != nil {
		return nil, err
	}
	var edges []graph.Edge
	for _, p := range products {
		edges = append(edges, p.edge())
	}
	all, err := b.run.Verify(ctx, edges...)
	return all, b.run.Blame(ctx, err)
}

// warn keeps a finding of the linter and shows it.
func (b *building) warn(res *Result, vertex digest.Digest, message string, opt gw.WarnOpts) {
	message = outbound.Redact(message)
	w := Warning{Message: message, URL: opt.URL}
	for i, d := range opt.Detail {
		opt.Detail[i] = []byte(outbound.Redact(string(d)))
		w.Detail = append(w.Detail, string(opt.Detail[i]))
	}
	if opt.SourceInfo != nil {
		w.File = opt.SourceInfo.Filename
		opt.SourceInfo = opt.SourceInfo.CloneVT()
		opt.SourceInfo.Definition = nil // as BuildKit's daemon passes it on
		opt.SourceInfo.Data = []byte(outbound.Redact(string(opt.SourceInfo.Data)))
	}
	if len(opt.Range) > 0 {
		w.Line = int(opt.Range[0].Start.GetLine())
	}
	res.Warnings = append(res.Warnings, w)
	b.sink.Write(&client.SolveStatus{Warnings: []*client.VertexWarning{{
		Vertex: vertex, Level: opt.Level, Short: []byte(message), Detail: opt.Detail,
		URL: opt.URL, SourceInfo: opt.SourceInfo, Range: opt.Range,
	}}})
}
