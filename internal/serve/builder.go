package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
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
	// Base is what holds for all builds: what protects and limits steps. Of the options of frontends in it those of a client win.
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
	opt := client.Options{Sessions: b.Sessions, Owner: owner, Store: b.Store, Engine: s.Engine, Kept: b.Kept}
	if s.Session != "" {
		opt.IDs = []string{s.Session}
	}
	req.Client = client.New(ctx, opt)
	defer func() { err = errors.Join(err, req.Client.Close(context.WithoutCancel(ctx))) }()
	if s.SessionExporter && req.Client.HasExporters(ctx) { // one that has none wants no more, as in BuildKit
		return nil, unimplementedf("outputs that the session names when the build is done (exporter.session) are not supported: name them in the request")
	}
	res, err := b.Build.Build(ctx, req, sink)
	if err != nil {
		return nil, frontend.Typed(err)
	}
	out := &control.Result{Response: res.Response, Descriptors: res.Descriptors, Manifests: res.Manifests, Provenance: map[string][]byte{}}
	for platform, predicate := range res.Provenance {
		out.Provenance[platform] = predicate
	}
	return out, nil
}

// request makes of what a client asks for what a build is.
func (b *Builder) request(s *control.Solve) (build.Request, error) {
	req := b.Base
	req.Defaults = req.Steps()
	if s.ProxyNetwork {
		return req, unimplementedf("this server does not have a network by a proxy")
	}
	if err := checkCaches(s); err != nil {
		return req, err
	}
	req.Session, req.Frontend, req.Definition, req.Evaluate = s.Session, s.Frontend, s.Definition, s.Evaluate
	req.Attrs, req.Inputs, req.SourcePolicies, req.Allow = s.Attrs, s.Inputs, s.SourcePolicies, s.Entitlements
	req.CacheFrom, req.CacheTo, req.PolicySession = s.CacheFrom, s.CacheTo, s.SourcePolicySession
	req.Compatibility = s.Compatibility
	req.Record, req.Unrecorded = s.Record, s.Record == nil
	if !s.Internal {
		req.TellProvenance = build.ProvenanceRecord
	}
	for _, o := range s.Outputs {
		req.Outputs = append(req.Outputs, output(o))
	}
	return req, nil
}

// clientCaches are the types of caches that a client may name. What they are known by the client says as well: see cache.Entry.Foreign.
var clientCaches = []string{cache.TypeRegistry, cache.TypeLocal, cache.TypeInline, cache.TypeGHA, cache.TypeS3}

// checkCaches refuses caches of other types, in BuildKit's words for those that it does not have.
func checkCaches(s *control.Solve) error {
	for what, entries := range map[string][]cache.Entry{"importer": s.CacheFrom, "exporter": s.CacheTo} {
		for _, e := range entries {
			if !slices.Contains(clientCaches, e.Type) {
				return unimplementedf("unknown cache %s: %q (want %s)", what, e.Type, strings.Join(clientCaches, ", "))
			}
		}
	}
	return nil
}

// output is one of BuildKit's exporters. What is pushed stays in the store only if the client says so: BuildKit's own worker keeps no images.
func output(o control.Output) build.Output {
	out := build.Output{Type: build.OutputType(o.Type), Attrs: maps.Clone(o.Attrs)}
	if out.Type == build.OutputImage && out.Attrs["push"] == "true" && out.Attrs["store"] == "" {
		out.Attrs["store"] = "false"
	}
	return out
}

func unimplementedf(format string, args ...any) error {
	return grpcerrors.WrapCode(fmt.Errorf(format, args...), codes.Unimplemented)
}
