// Package frontend is the seam to BuildKit: it implements the gateway client, in process, on
// which BuildKit's Dockerfile frontend runs. The frontend turns a Dockerfile into LLB; the engine
// evaluates it. There is no gRPC and no session between them.
package frontend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// Options are what a Dockerfile is evaluated with.
type Options struct {
	Run  *engine.Run
	Sink progress.Sink
	// Attrs are the frontend's options by BuildKit's names: "filename", "target",
	// "build-arg:NAME", ...
	Attrs map[string]string
	// Defaults are options that hold where nothing else is said, also by who asks a frontend by the gateway.
	Defaults map[string]string
	// Asked is what the frontend was asked; nil: what is solved is no frontend's.
	Asked *Asked
	// Inputs are results that the build begins with, by the names that attributes have for them ("input:NAME").
	Inputs map[string]*pb.Definition
	// Session is the one that directories are of which have no other one; "": see ownSession.
	Session string
	// Sessions tell directories with the same name of several builds apart, by the names of local sources.
	Sessions map[string]string
	// Platform is the one that steps can run on.
	Platform ocispec.Platform
	// Serve has frontends that are images drive the build; nil: there are none.
	Serve Serve
	// SourcePolicies say which sources the build may use, and which take the place of others.
	SourcePolicies []*spb.Policy
	// Import has the build import caches that somebody asks for; nil: none.
	Import func([]gw.CacheOptionsEntry)
	// Decide decides which sources the build may use besides SourcePolicies; nil: they do alone.
	Decide Decide
	// Warn is given the linter's findings; may be nil.
	Warn func(vertex digest.Digest, message string, opt gw.WarnOpts)
	// Solved is given everything that the frontend asks for, the files that it reads included; it
	// may be called from several goroutines, and may be nil.
	Solved func(*Ref)
}

// Client is the gateway that the frontend talks to.
type Client struct {
	opt   Options
	attrs map[string]string
	last  *int   // --target as a number: the stage that is the last one to be read
	only  string // the key of the one image that is missing; "": as it is: see [Client.build]

	asking questions
	nested int // how many frontends have asked for it

	failures *failures // of the build, for those who ask for what was left behind

	mu         sync.Mutex
	resolved   map[string]*imagesource.Image
	failed     map[string]error // by the same keys
	dockerfile []byte           // as it was read
	unresolved string           // the first image that could not be resolved
	refused    error            // what the Dockerfile was not given to the frontend for
}

// New gives a client for somebody else than the frontend that is linked in.
func New(opt Options) *Client {
	c := &Client{opt: opt, attrs: opt.with(opt.Attrs), resolved: map[string]*imagesource.Image{}, failed: map[string]error{}, failures: &failures{}}
	for name, id := range opt.Sessions {
		c.attrs[sessionAttr+name] = id
	}
	return c
}

// with puts options over the defaults.
func (o *Options) with(attrs map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, o.Defaults)
	maps.Copy(all, attrs)
	return all
}

var _ gw.Client = (*Client)(nil)

// Build evaluates the Dockerfile. References in the result are of type *Ref; a nil reference is
// the empty filesystem.
func Build(ctx context.Context, opt Options) (*gw.Result, error) {
	c := New(opt)
	if n, err := strconv.Atoi(c.attrs["target"]); err == nil && n >= 0 {
		c.last = &n
		delete(c.attrs, "target") // stages' names do not begin with a digit
	}
	return c.read(ctx)
}

// ownSession is the session of directories that have no other one; sessionAttr begins the option of others.
const (
	ownSession  = "local"
	sessionAttr = "local-sessionid:"
)

// BuildOpts implements the gateway client.
func (c *Client) BuildOpts() gw.BuildOpts {
	return gw.BuildOpts{
		Opts:      c.attrs,
		SessionID: cmp.Or(c.opt.Session, ownSession),
		Workers:   []gw.WorkerInfo{{ID: "local", Platforms: []ocispec.Platform{c.opt.Platform}}},
		Product:   "slipway",
		LLBCaps:   llbCaps(),
		Caps:      gatewayCaps(),
	}
}

// Solve implements the gateway client. Nothing is evaluated until somebody looks into the result,
// unless the request says so.
func (c *Client) Solve(ctx context.Context, req gw.SolveRequest) (*gw.Result, error) {
	if req.Frontend != "" {
		if len(req.Definition.GetDef()) > 0 {
			return nil, errors.New("cannot solve with both Definition and Frontend specified")
		}
		res, err := c.forward(ctx, req)
		if err == nil && req.Evaluate {
			err = evaluate(ctx, res)
		}
		return res, err
	}
	if len(req.CacheImports) > 0 && c.opt.Import != nil {
		c.opt.Import(req.CacheImports)
	}
	p, err := c.policy(req.SourcePolicies)
	if err == nil {
		req.Definition, err = p.definition(ctx, req.Definition)
	}
	if err != nil {
		return nil, err
	}
	e, err := graph.Load(req.Definition)
	if err != nil {
		return nil, err
	}
	res := gw.NewResult()
	if e.Vertex == nil {
		return res, nil
	}
	if err := c.opt.Run.Permit(e); err != nil {
		return nil, err
	}
	ref := &Ref{client: c, run: c.opt.Run, edge: e, def: req.Definition, asked: c.opt.Asked}
	if c.opt.Solved != nil {
		c.opt.Solved(ref)
	}
	if req.Evaluate {
		if err := ref.Evaluate(ctx); err != nil {
			return nil, err
		}
	}
	res.SetRef(ref)
	return res, nil
}

// evaluate evaluates all references of a result.
func evaluate(ctx context.Context, res *gw.Result) error {
	g, ctx := errgroup.WithContext(ctx)
	_ = res.EachRef(func(ref gw.Reference) error { // the function gives no error
		g.Go(func() error { return ref.Evaluate(ctx) })
		return nil
	})
	return g.Wait()
}

// ResolveImageConfig implements the gateway client.
func (c *Client) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	p, err := c.policy(opt.SourcePolicies)
	if err != nil {
		return "", "", nil, err
	}
	scheme := srctypes.DockerImageScheme
	if opt.OCILayoutOpt != nil {
		scheme = srctypes.OCIScheme
	}
	if ref, err = p.image(ctx, ref, scheme, opt); err != nil {
		return "", "", nil, err
	}
	img, err := c.resolve(ctx, ref, opt)
	if err != nil {
		return "", "", nil, err
	}
	return ref, img.Root, img.Config, nil
}

func (c *Client) resolve(ctx context.Context, ref string, opt sourceresolver.Opt) (*imagesource.Image, error) {
	platform := c.opt.Platform
	mode := imagesource.ResolveDefault
	if o := opt.ImageOpt; o != nil {
		if o.Platform != nil {
			platform = *o.Platform
		}
		if o.ResolveMode == pb.AttrImageResolveModeForcePull {
			mode = imagesource.ResolvePull
		}
	}
	find := func(ctx context.Context) (*imagesource.Image, error) {
		return c.opt.Run.Images().Resolve(ctx, ref, platform, mode)
	}
	if o := opt.OCILayoutOpt; o != nil {
		if o.Platform != nil {
			platform = *o.Platform
		}
		id := o.Store.StoreID
		l, err := c.opt.Run.Layout(id)
		if err != nil {
			return nil, err
		}
		mode = imagesource.ResolveMode("in " + l.Name())
		find = func(ctx context.Context) (*imagesource.Image, error) {
			return c.opt.Run.ResolveLayout(ctx, ref, id, platform)
		}
	}
	key := ref + " " + platforms.FormatAll(platform)
	if mode != imagesource.ResolveDefault {
		key += " " + string(mode)
	}
	c.mu.Lock()
	img, err := c.resolved[key], c.failed[key]
	c.mu.Unlock()
	switch {
	case img != nil:
		return img, nil
	case c.only == "":
		img, err = c.ask(ctx, key, ref, opt.LogName, find)
	case key != c.only:
		<-ctx.Done()
		err = context.Cause(ctx)
	}
	if err != nil && ctx.Err() == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.unresolved == "" {
			c.unresolved = ref
		}
	}
	return img, err
}

// ask resolves an image as a step of the display. An error comes when the other questions are answered as well.
func (c *Client) ask(ctx context.Context, key, ref, name string, find func(context.Context) (*imagesource.Image, error)) (*imagesource.Image, error) {
	if name == "" {
		name = "[internal] load metadata for " + ref
	}
	answered := c.asking.begin()
	img, err := c.opt.Run.ResolveImage(ctx, key, name, func(ctx context.Context) (*imagesource.Image, error) {
		img, err := find(ctx)
		if err != nil {
			err = fmt.Errorf("failed to resolve source metadata for %s: %w", ref, err)
		}
		return img, err
	})
	c.mu.Lock()
	if err == nil {
		c.resolved[key] = img
	} else if ctx.Err() == nil {
		c.failed[key] = err
	}
	c.mu.Unlock()
	answered()
	if err != nil {
		c.asking.wait(ctx)
	}
	return img, err
}

// Inputs implements the gateway client.
func (c *Client) Inputs(context.Context) (map[string]llb.State, error) {
	inputs := map[string]llb.State{}
	for name, def := range c.opt.Inputs {
		e, err := graph.Load(def) // what reads it next takes for granted that it is one
		if err != nil {
			return nil, fmt.Errorf("reading input %s: %w", name, err)
		}
		if e.Vertex == nil {
			inputs[name] = nothing()
			continue
		}
		op, err := llb.NewDefinitionOp(def)
		if err != nil {
			return nil, fmt.Errorf("reading input %s: %w", name, err)
		}
		inputs[name] = llb.NewState(op)
	}
	return inputs, nil
}

// nothing is the empty filesystem as something that is made: a frontend takes for granted that somebody makes its context, and
// ends the process where nobody does.
func nothing() llb.State {
	return llb.Scratch().File(llb.Rm("/nothing", llb.WithAllowNotFound(true)), llb.WithCustomName("[internal] empty input"))
}

// Warn implements the gateway client.
func (c *Client) Warn(_ context.Context, dgst digest.Digest, msg string, opt gw.WarnOpts) error {
	if c.opt.Warn != nil {
		c.failures.warning.Lock() // several may drive the build
		defer c.failures.warning.Unlock()
		c.opt.Warn(dgst, msg, opt)
	}
	return nil
}
