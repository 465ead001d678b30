// Package build carries out one build from request to result.
//
// It knows nothing of flags, terminals or the process's own state: a request comes in, events go
// to a [progress.Sink], a result comes out. So an API server can drive it as well as the command
// line does.
package build

import (
	"context"
	"encoding/json"
	"io"
	"time"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/client"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/secrets"
	"github.com/slipway-build/slipway/internal/store"
)

// Request says what to build.
type Request struct {
	// Client is whose build it is, unless it is this machine's: directories, secrets, agents, layouts, uploads and the places of outputs
	// and caches are the client's then, Attrs are all that the frontend is told, and of what is a path here nothing is looked at.
	Client *client.Client
	// Session is the client's session that sources are of which name none.
	Session string
	// Frontend is who reads what there is to build: "" and "dockerfile.v0" are the linked one, "gateway.v0" is the image that
	// Attrs["source"] names.
	Frontend string
	// Definition is a graph to be built in place of what a frontend makes; nil: a frontend makes it.
	Definition *pb.Definition
	// Evaluate says what to build in place of a frontend, with the gateway of the build. It is called once.
	Evaluate func(ctx context.Context, c gw.Client) (*gw.Result, error)
	// SourcePolicies say which sources the build may use, and which take the place of others.
	SourcePolicies []*spb.Policy
	// PolicySession is the client's session that decides about sources besides; "": none does.
	PolicySession string
	// Record is the directory where the build leaves its record, which the caller closes; nil: a new one. Unrecorded builds leave none.
	Record     *store.BuildDir
	Unrecorded bool
	// Context is the build context: a directory, the URL of a git repository, of an archive or of a
	// Dockerfile, or "-" for an archive or a Dockerfile from Stdin.
	Context string
	// Remote: Context is a URL, and never a directory that is called so.
	Remote bool
	// Registries are what registries know who builds by, in place of what this machine has; nil: that. A client has its own.
	Registries registry.Credentials
	// Dockerfile is the path of the Dockerfile, "-" for Stdin, or its URL; "" is "Dockerfile" in the
	// context. A path is one on the host when the context is a directory, and when it is absolute; in
	// any other context it is one in the context.
	Dockerfile string
	// DockerfileText is the Dockerfile itself, in place of a path; "" for none.
	DockerfileText string
	// Contexts are further contexts by their names: a directory, docker-image://REFERENCE,
	// oci-layout://DIRECTORY[:TAG][@DIGEST], or a URL as in Context; target:NAME, the result of another build of
	// [Builder.BuildAll]; or input:KEY, one of Inputs. The names take the place of stages and images.
	Contexts map[string]string
	// Inputs are graphs that the frontend begins with: "context" is the context then, others are named by Contexts. Of
	// directories they may read those of the request.
	Inputs map[string]*pb.Definition
	// Stdin is read when Context or Dockerfile say so.
	Stdin io.Reader
	// Target is the stage to stop at, by name or number; "" is the last one.
	Target string
	// BuildArgs and Labels as in --build-arg and --label.
	BuildArgs, Labels map[string]string
	// NoCache runs every step; Pull asks the registry for every base image again.
	NoCache, Pull bool
	// VerifyCache carries out again what was cached, once the result is delivered, and tells what differs.
	VerifyCache bool
	// Warm has steps find directories of their tools as earlier builds of the same project left them, where that is not seen in the result;
	// WarmPaths are directories besides: absolute, or below "~". VerifyWarm builds the result without them as well, once it is delivered, and
	// tells what differs.
	Warm, VerifyWarm bool
	WarmPaths        []string
	// Network is what RUN sees unless it says otherwise: "" or "default" and "host" are the
	// host's network, "none" is none.
	Network string
	// MaxProcesses bounds the processes and threads of each RUN; 0 is a default, -1 no limit.
	MaxProcesses int64
	// AppArmor is the profile of each RUN, as in [sandbox.Spec].
	AppArmor string
	// UserNS gives each RUN that is not insecure a user namespace.
	UserNS bool
	// Platforms are the target platforms as in --platform; none is this machine's. The result for
	// several is an index.
	Platforms []string
	// AddHosts are lines for /etc/hosts in RUN: "name:ip" or "name=ip".
	AddHosts []string
	// Tags name the image in the local store; they imply an image output when Outputs is empty.
	Tags []string
	// Outputs are where the result goes. None: the local store.
	Outputs []Output
	// Attest are the attestations that the image gets, "provenance" and "sbom", each with its
	// attributes as comma-separated key=value pairs ("mode=max").
	Attest map[string]string
	// Compatibility is the version of BuildKit's whose images are to be made, which says what is so by default; 0 is the latest.
	Compatibility int
	// ProvenanceEnv is what provenance says besides of where the build runs.
	ProvenanceEnv map[string]any
	// TraceProcesses has the record tell which processes the steps have run, where the kernel tells it.
	TraceProcesses bool
	// KeepFailed has a RUN that fails kept as a container: see Record.Kept. It is not for builds of clients.
	KeepFailed bool
	// TraceFiles has the record tell which files the steps have opened, where the kernel tells it.
	TraceFiles bool
	// Ended is told of the build's record when it is complete, also of a build that failed; may be nil.
	Ended func(*Record)
	// TellProvenance has the result tell its provenance, whatever the image gets; "" for none.
	TellProvenance ProvenanceMode
	// CacheFrom and CacheTo are the caches to import and to export, as in --cache-from and --cache-to.
	CacheFrom, CacheTo []cache.Entry
	// Attrs are further options of the Dockerfile frontend by BuildKit's names ("shm-size",
	// "ulimit", "hostname", ...).
	Attrs map[string]string
	// Defaults are options of frontends that hold where a client's do not say something else, whichever frontend it asks.
	Defaults map[string]string
	// Secrets and SSH are what the build may use and does not keep, as in --secret and --ssh.
	Secrets []secrets.Source
	SSH     []secrets.Agent
	// Allow are the entitlements that the build is given, as in --allow: "security.insecure",
	// "network.host".
	Allow []string
	// Call asks the frontend something instead of building: "frontend.lint", "frontend.outline",
	// "frontend.targets". The result has the Answer then, and nothing else.
	Call string
	// Command is the command line for the build's record; may be empty.
	Command []string
}

// ProvenanceMode is how much is told of how a result was made.
type ProvenanceMode string

const (
	ProvenanceMin ProvenanceMode = "min" // what was asked for, and what was read
	ProvenanceMax ProvenanceMode = "max" // the steps as well
	// ProvenanceRecord is all that is known, in the version of SLSA that BuildKit's history has.
	ProvenanceRecord ProvenanceMode = "record"
)

// OutputType is a kind of result.
type OutputType string

const (
	OutputImage  OutputType = "image"  // named in the local store
	OutputOCI    OutputType = "oci"    // OCI image layout, as a tar file or a directory
	OutputDocker OutputType = "docker" // what `docker load` takes, as a tar file
	OutputLocal  OutputType = "local"  // the root filesystem's files, as a directory
	OutputTar    OutputType = "tar"    // the root filesystem's files, as a tar file
	// OutputCacheOnly runs the build for its cache: nothing is written anywhere else.
	OutputCacheOnly OutputType = "cacheonly"
)

// Output is one place for the result.
type Output struct {
	Type OutputType
	// Dest is a file, or for OutputLocal (and OutputOCI with Attrs["tar"] = "false") a directory.
	Dest string
	// Writer takes a tar instead of Dest, as `-o -` does; nil otherwise.
	Writer io.Writer
	// Attrs are the other key=value pairs of -o, "name" among them.
	Attrs map[string]string
}

// Result is what a build gave.
type Result struct {
	// ID names the build in the store: builds/<ID>/.
	ID string
	// ImageID is the digest of the image's config, or of the index, as --iidfile gets it. Empty when
	// no output was an image.
	ImageID digest.Digest
	// Manifest describes the image's manifest, or the index.
	Manifest ocispec.Descriptor
	// Config is the digest of the image's config; empty for an index.
	Config digest.Digest
	// Names are the image's full names.
	Names []string
	// Provenance is what Request.TellProvenance asked for, an SLSA predicate of version 0.2, by platform; "" is the only one.
	Provenance map[string]json.RawMessage
	// Response is what BuildKit's exporters tell a client, by their keys, and Descriptors what the outputs made, by their places.
	Response    map[string]string
	Descriptors map[int]ocispec.Descriptor
	// Manifests are the files of a given Request.Record, by digest, that have these and the manifests of an index: the image may be nowhere when
	// somebody reads the record.
	Manifests map[digest.Digest]string
	// Cache describes the manifest of the last cache that was exported; nil for none.
	Cache *ocispec.Descriptor
	// Warnings are what the Dockerfile frontend's linter says, one line each.
	Warnings []Warning
	// Verified tells of the steps that were carried out again for VerifyCache.
	Verified []engine.Verified
	// VerifiedWarm is what came of VerifyWarm; nil without it.
	VerifiedWarm *engine.Verified
	// Offer is a step that would have been shorter in a warm build; nil: nothing is to be said of one.
	Offer *engine.Chilled
	// Answer is what the frontend says to a Call.
	Answer Answer
	// Took is the wall time of the build.
	Took time.Duration
}

// Warning is one finding of the linter.
type Warning struct {
	Message string
	Detail  []string
	URL     string
	File    string
	Line    int // 1-based; 0 when not known
}
