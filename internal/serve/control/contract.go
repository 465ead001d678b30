package control

import (
	"context"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/store"
)

// What builds are asked for and what comes of them. These types are those that internal/build is to have: they stand here
// until it does, and nothing but their names changes then.

// Builder carries out builds. It is safe for concurrent use.
type Builder interface {
	// Solve carries out one build and tells its events to the sink. When the context ends it returns soon, and tells of
	// nothing any more after it has returned. Its errors are those of BuildKit's solver/errdefs where there is one.
	Solve(ctx context.Context, s Solve, sink progress.Sink) (*Result, error)
}

// Solve is a build that a client asks for. Everything in it is a claim of the client's.
type Solve struct {
	Ref     string // how the client calls the build: unique among those that run
	Session string // the ID of the client's session; "" is none
	Engine  bool   // it came by Docker's API: see [Engine]

	// One of the three says what is evaluated: what somebody makes of a gateway, a definition, or a frontend ("dockerfile.v0" or
	// "gateway.v0").
	Evaluate   func(ctx context.Context, gwc gw.Client) (*gw.Result, error)
	Definition *pb.Definition
	Frontend   string

	Attrs  map[string]string         // of the frontend, as they came
	Inputs map[string]*pb.Definition // graphs that the frontend begins with, by their names

	Outputs            []Output
	CacheFrom, CacheTo []cache.Entry
	// SessionExporter asks the client's session for more outputs.
	SessionExporter bool

	Entitlements        []string // that the client gives the build; all of them are allowed here
	SourcePolicies      []*spb.Policy
	SourcePolicySession string // the session that decides about sources; "" is none
	ProxyNetwork        bool
	Compatibility       int // BuildKit's compatibility version, a supported one

	// Record is the directory where the build leaves record.json and its log. It stays the caller's to close. It is nil for
	// an internal build, which leaves none.
	Record   *store.BuildDir
	Internal bool
}

// Output is what is made of the result. The client's session knows it by its place in the list.
type Output struct {
	Type  string
	Attrs map[string]string
}

// Result is what a build gives.
type Result struct {
	// Response is BuildKit's: containerimage.digest, containerimage.descriptor (JSON in base64), image.name, cache.manifest, frontend.*.
	Response map[string]string
	// Descriptors are those of what the outputs made, by their places.
	Descriptors map[int]ocispec.Descriptor
	// Manifests are files of the record, by digest, that have these and the manifests of an index.
	Manifests map[digest.Digest]string
	// Provenance has the predicates (SLSA 1, all that is known) by platforms, and by "" for a result without any.
	Provenance map[string][]byte
}

// Backend is what requests are served from.
type Backend struct {
	Store   *store.Store
	Builder Builder
}

// Bridge lets the client of a build evaluate: from now on until end, calls that carry its ref are answered, as soon as drive is called
// with what they reach. Drive returns what the client returns, or when the context ends.
type Bridge func(ref string) (drive func(ctx context.Context, gwc gw.Client) (*gw.Result, error), end func(), err error)
