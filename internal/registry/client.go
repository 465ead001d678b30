// Package registry speaks to image registries: it resolves references, fetches and pushes blobs,
// and checks credentials.
//
// # Structure
//
// The wire protocol, certs.d directories and token handling are containerd's
// (core/remotes/docker). This package adds what a build needs around them: credentials from
// docker's config.json, one set of connections and tokens per registry, retries with
// back-off, resuming of broken downloads, bounds on manifests, and errors that say what was
// tried and what to do.
//
// # Caveats
//
// References are normalised as Docker does: "alpine" is docker.io/library/alpine:latest.
// What is fetched is bounded by the size in its descriptor, but it is the caller who
// verifies the digest while storing it.
package registry

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Options configure a Client. The zero value asks the registries that references name, over
// https, with the user's own docker credentials.
type Options struct {
	// CertsDirs are roots of certs.d/<host>/hosts.toml trees. The first root that has a
	// directory for a host decides; roots that do not exist are skipped.
	CertsDirs []string
	// UserAgent is sent with every request; "" is "slipway".
	UserAgent string
	// DockerConfigDir holds config.json; "" is $DOCKER_CONFIG or ~/.docker.
	DockerConfigDir string
	// Credentials are those of whoever the registries are asked for; nil: of config.json.
	Credentials Credentials
	// Otherwise gives the credentials for the host of a request where config.json has none; nil: nobody does.
	Otherwise func(host string) (user, secret string)
	// AnyCertificate lets every registry have any certificate; Insecure lets it speak plain HTTP besides, as AllowInsecure does
	// one.
	AnyCertificate, Insecure bool
}

// Credentials are what somebody is known by to registries. They are asked for when a registry wants them, and are sent to
// nobody but who they are for, as those of config.json.
type Credentials interface {
	// Lookup returns user and secret for the host of a request; both empty for none. A secret without a user is an identity
	// token.
	Lookup(ctx context.Context, host string) (user, secret string, err error)
	// FetchesTokens reports whether whoever has the credentials asks token services of a registry itself, so that they need not be
	// known here.
	FetchesTokens(ctx context.Context, host string) bool
	// Token is what a token service gave then.
	Token(ctx context.Context, q TokenRequest) (Token, error)
}

// TokenRequest is what a registry's token service is asked for.
type TokenRequest struct {
	Host           string // of the registry
	Realm, Service string // as the registry says
	Scopes         []string
}

// Token is what a token service gives. ExpiresIn are seconds, IssuedAt seconds since the epoch; 0 is not known.
type Token struct {
	Token               string
	ExpiresIn, IssuedAt int64
}

// Client speaks to registries. It keeps connections, mirrors and tokens per registry, and is
// safe for concurrent use.
type Client struct {
	opts  Options
	creds *credentials
	tune  tuning
	base  *Client // whose settings and connections it has; nil: its own

	reach outbound.Reach

	mu       sync.Mutex
	hosts    map[string][]docker.RegistryHost // by the host a reference names
	others   *http.Client                     // for servers that are no registries
	whole    map[string]bool                  // hosts that take blobs in one request only
	reached  map[string]bool                  // of them those that have answered a push
	insecure map[string]bool                  // of them those of AllowInsecure
}

// tuning holds the numbers that tests make small, and where they lead connections to.
type tuning struct {
	attempts  int                                                                  // tries of one step without progress, the first included
	base      time.Duration                                                        // pause after the first failure; doubles with each
	max       time.Duration                                                        // longest pause, and the longest Retry-After that is honoured
	pace      outbound.Pace                                                        // a download that is slower is broken off and resumed
	step      int64                                                                // bytes that count as progress between two failures
	manifests int64                                                                // bytes of the largest manifest
	dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: by the address
}

var defaultTuning = tuning{
	attempts:  5,
	base:      200 * time.Millisecond,
	max:       30 * time.Second,
	pace:      outbound.DefaultPace,
	step:      64 << 10,
	manifests: MaxManifestSize,
}

// MaxManifestSize is the size in bytes of the largest manifest or index that is accepted.
const MaxManifestSize = 4 << 20

// New returns a client. Nothing is read or asked before the first call of a method.
func New(opts Options) *Client {
	if opts.UserAgent == "" {
		opts.UserAgent = "slipway"
	}
	return &Client{
		opts:  opts,
		creds: &credentials{dir: opts.DockerConfigDir, given: opts.Credentials, otherwise: opts.Otherwise},
		tune:  defaultTuning,
		hosts: map[string][]docker.RegistryHost{}, whole: map[string]bool{}, reached: map[string]bool{}, insecure: map[string]bool{},
	}
}

// As returns a client for somebody who is known to registries by other credentials. It has c's settings and connections, which nobody is known
// by, and no tokens of c's.
func (c *Client) As(who Credentials) *Client {
	opts := c.opts
	opts.Credentials = who
	as := New(opts)
	as.tune, as.base = c.tune, c
	return as
}

// Parse normalises a reference: default registry docker.io, "library/" for its official
// images, tag "latest" when there is neither tag nor digest. The error is
// errdefs.ErrInvalidArgument.
func Parse(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("parsing image reference %q: %w: %w (write [REGISTRY/]NAME[:TAG][@DIGEST])", ref, err, errdefs.ErrInvalidArgument)
	}
	return reference.TagNameOnly(named), nil
}

// Resolve asks the registry, or its mirrors in their order, for the manifest or index that
// ref names. Of the descriptor, digest, size and media type are what the registry claims
// (the digest of a reference that has one is that digest).
//
// Errors are an [*Error] of a category of errdefs: ErrNotFound, ErrUnauthenticated,
// ErrPermissionDenied, ErrUnavailable, ErrOutOfRange (a manifest too big), or
// ErrInvalidArgument for a reference that cannot be parsed.
func (c *Client) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	named, err := Parse(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	op := newOperation(named, ocispec.Descriptor{})
	var desc ocispec.Descriptor
	err = c.retry(ctx, op, func(ctx context.Context) error {
		resolver, err := c.resolver(op.host, 0)
		if err != nil {
			return err
		}
		_, desc, err = resolver.Resolve(ctx, named.String())
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, c.explain(ctx, op, err)
	}
	return desc, nil
}

// Blob finds a blob, or a manifest, by the digest in ref. Some registries have nothing to say of a blob's digest where manifests are, and
// fail: blobs are asked for first.
func (c *Client) Blob(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	named, err := Parse(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	pinned, ok := named.(reference.Digested)
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("%s has no digest: %w", named, errdefs.ErrInvalidArgument)
	}
	if desc, err := c.blob(ctx, named, pinned.Digest()); err == nil {
		return desc, nil
	}
	return c.Resolve(ctx, ref) // which tells what is wrong, and looks where manifests are
}

func (c *Client) blob(ctx context.Context, named reference.Named, d digest.Digest) (ocispec.Descriptor, error) {
	resolver, err := c.resolver(newOperation(named, ocispec.Descriptor{}).host, 0)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	fetcher, err := resolver.Fetcher(ctx, named.String())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	by, ok := fetcher.(remotes.FetcherByDigest)
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("blobs of %s: %w", named, errdefs.ErrNotImplemented)
	}
	rc, desc, err := by.FetchByDigest(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return desc, rc.Close()
}

// Fetch opens the blob or manifest desc of the repository of ref. The first request has been
// answered when it returns. A connection that breaks, or that gives nothing for half a
// minute, is opened again where it left off.
//
// Read fails when there are more or fewer bytes than desc.Size (0 or more); the digest is for
// the caller to verify. desc.URLs are ignored, but for layers that may not be redistributed and that the
// registry lacks. Errors are as those of [Client.Resolve], and ErrDataLoss for a wrong
// size. The reader is for one goroutine and must be closed.
func (c *Client) Fetch(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	named, err := Parse(ref)
	if err != nil {
		return nil, err
	}
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return nil, fmt.Errorf("fetching from %s: descriptor with digest %q and size %d: %w", named, desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	urls := elsewhere(desc)
	desc.URLs = nil
	d := &download{ctx: ctx, client: c, op: newOperation(named, desc), ref: named.String(), desc: desc}
	err = d.open()
	if errdefs.IsNotFound(err) && ctx.Err() == nil {
		err = d.openElsewhere(urls, err)
	}
	if err != nil {
		return nil, c.explain(ctx, d.op, err)
	}
	return d, nil
}

// resolver returns containerd's resolver for references of a registry. Its endpoints are asked
// in their order, beginning with the given one and going round.
func (c *Client) resolver(host string, first int) (remotes.Resolver, error) {
	hosts, err := c.hostsOf(host)
	if err != nil {
		return nil, err
	}
	if n := len(hosts); n > 0 {
		hosts = slices.Concat(hosts[first%n:], hosts[:first%n])
	}
	return docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return hosts, nil },
		Headers: http.Header{"User-Agent": {c.opts.UserAgent}},
	}), nil
}

// retry runs one step until it succeeds, fails for good, or has failed too often.
func (c *Client) retry(ctx context.Context, op *operation, step func(context.Context) error) error {
	ctx = log.WithLogger(withOperation(ctx, op), quiet)
	stale := c.known(op.host)
	for attempt := 1; ; attempt++ {
		err := step(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		// containerd's authorizer keeps the outcome of a token request for good, a failed
		// one too, so that a registry is only asked again with a new one.
		c.forget(op.host)
		again := transient(err) || c.refusedLater(op, err) || unauthenticated(err) && attempt == 1 && stale
		if !again || attempt >= c.tune.attempts {
			return err
		}
		if err := c.pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// pause waits after the n-th failure in a row: base, 2*base, ... with some jitter.
func (c *Client) pause(ctx context.Context, n int) error {
	d := min(c.tune.base<<(n-1), c.tune.max)
	return sleep(ctx, d/2+rand.N(d/2+1))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// quiet swallows what containerd would log: this package's errors carry all of it.
var quiet = func() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return logrus.NewEntry(l)
}()
