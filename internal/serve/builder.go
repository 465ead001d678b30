package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/frontend"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
)

// Builder carries out what clients ask for. All fields but Base are required.
type Builder struct {
	Build    *build.Builder
	Store    *store.Store
	Sessions *session.Manager
	Kept     *client.Kept
	// Base is what holds for all builds: limits of steps.
	Base build.Request
}

var _ control.Builder = (*Builder)(nil)

// owner is who clients are: whoever may connect to a server may do what all others may that it lets in.
const owner = "client"

// Solve implements [control.Builder].
func (b *Builder) Solve(ctx context.Context, s control.Solve, sink progress.Sink) (_ *control.Result, err error) {
	req, err := b.request(&s)
	if err != nil {
		return nil, err
	}
	opt := client.Options{Sessions: b.Sessions, Owner: owner, Store: b.Store, Kept: b.Kept}
	if s.Session != "" {
		opt.IDs = []string{s.Session}
	}
	req.Client = client.New(ctx, opt)
	defer func() { err = errors.Join(err, req.Client.Close(context.WithoutCancel(ctx))) }()
	res, err := b.Build.Build(ctx, req, sink)
	if err != nil {
		return nil, frontend.Typed(err)
	}
	out := &control.Result{Response: res.Response, Descriptors: res.Descriptors, Provenance: map[string][]byte{}}
	for platform, predicate := range res.Provenance {
		out.Provenance[platform] = predicate
	}
	return out, nil
}

// request makes of what a client asks for what a build is.
func (b *Builder) request(s *control.Solve) (build.Request, error) {
	req := b.Base
	switch {
	case s.SourcePolicySession != "":
		return req, unimplemented("a policy that the client decides by its session")
	case s.ProxyNetwork:
		return req, unimplemented("a network by a proxy")
	}
	req.Session, req.Frontend, req.Definition, req.Evaluate = s.Session, s.Frontend, s.Definition, s.Evaluate
	req.Attrs, req.Inputs, req.SourcePolicies, req.Allow = s.Attrs, s.Inputs, s.SourcePolicies, s.Entitlements
	req.CacheFrom, req.CacheTo = s.CacheFrom, s.CacheTo
	req.Record, req.Unrecorded = s.Record, s.Record == nil
	if !s.Internal {
		req.TellProvenance = build.ProvenanceRecord
	}
	for _, o := range s.Outputs {
		req.Outputs = append(req.Outputs, output(o))
	}
	if len(req.Outputs) == 0 {
		req.Outputs = []build.Output{{Type: build.OutputCacheOnly}}
	}
	return req, nil
}

// output is one of BuildKit's exporters. What is pushed stays in the store only if the client says so: BuildKit's own worker keeps no images.
func output(o control.Output) build.Output {
	out := build.Output{Type: build.OutputType(o.Type), Attrs: maps.Clone(o.Attrs)}
	if out.Type == build.OutputImage && out.Attrs["push"] == "true" && out.Attrs["store"] == "" {
		out.Attrs["store"] = "false"
	}
	return out
}

func unimplemented(what string) error {
	return grpcerrors.WrapCode(fmt.Errorf("this server does not have %s", what), codes.Unimplemented)
}
