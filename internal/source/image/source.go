// Package imagesource evaluates docker-image:// sources: it finds the image that a reference
// names for a platform, and brings its manifest, config and layers into the store.
//
// # Structure
//
// [Source.Resolve] answers which image a reference is, from the store when the image is
// here, otherwise from the registry, and fetches the small blobs. [Source.Pull] fetches the
// layers, later and only when something needs them. Unpacking is not done here.
//
// # Caveats
//
// A registry is not trusted: manifests are bounded, digests and sizes are verified, a
// document is read as one kind of document only, and what fails never reaches the store.
package imagesource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/slipway-build/slipway/internal/inflight"
	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/registry"
)

// Store is what is needed of the store. It is safe for concurrent use.
type Store interface {
	// HasBlob reports whether a blob is held.
	HasBlob(dgst digest.Digest) bool
	// OpenBlob opens a blob; its reader fails when the bytes do not have the digest.
	OpenBlob(ctx context.Context, dgst digest.Digest) (io.ReadCloser, error)
	// WriteBlob stores what r gives until io.EOF, if it has desc's digest and size; else, or
	// when r fails, it fails and nothing is stored. Writing what is held already, also at
	// the same time, succeeds, and replaces a damaged blob.
	WriteBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error
	// Ref returns the image manifest, or the index with it, that a normalised reference was last resolved
	// to for a platform.
	Ref(ctx context.Context, ref, platform string) (digest.Digest, bool)
	// SetRef remembers that.
	SetRef(ctx context.Context, ref, platform string, d digest.Digest) error
	// LocalImage returns the manifest (or index) of the image in the local store that has
	// the name ref, normalised.
	LocalImage(ctx context.Context, ref string) (digest.Digest, bool)
	// AddSources remembers that a repository has blobs.
	AddSources(ctx context.Context, repository string, blobs ...digest.Digest) error
}

// ResolveMode says who is asked for an image. The values are those of LLB's
// image.resolvemode attribute.
type ResolveMode string

const (
	// ResolveDefault uses an image that is here, and asks the registry for others.
	ResolveDefault ResolveMode = "default"
	// ResolvePull asks the registry, except for a reference with a digest that is here.
	ResolvePull ResolveMode = "pull"
	// ResolveLocal only uses images that are here.
	ResolveLocal ResolveMode = "local"
)

// Image is a resolved image for one platform. Its manifest and config are in the store, its
// layers need not be. It is shared between callers and must not be changed.
type Image struct {
	Ref      string             // normalised: docker.io/library/alpine:latest
	Digest   digest.Digest      // of the image manifest, never of an index
	Root     digest.Digest      // of what the reference names, an index or the same manifest
	Desc     ocispec.Descriptor // of the image manifest
	Manifest ocispec.Manifest   // OCI, or Docker schema 2 which has the same fields
	Config   []byte             // the config as it is stored
	DiffIDs  []digest.Digest    // of the uncompressed layers; as many as Manifest.Layers
	Platform ocispec.Platform   // as the config tells
}

// Source evaluates image sources. It is safe for concurrent use; calls for the same thing at
// the same time are done once.
type Source struct {
	store Store
	reg   *registry.Client
	as    *account // nil: that of whose the store is

	resolves inflight.Group[*Image]
	pulls    inflight.Group[struct{}]
	slots    *semaphore.Weighted
}

// maxDownloads is the number of layers that are fetched at the same time.
const maxDownloads = 4

// New returns a source that fetches from reg into store.
func New(store Store, reg *registry.Client) *Source {
	return &Source{store: store, reg: reg, slots: semaphore.NewWeighted(maxDownloads)}
}

// As returns the source for somebody whom registries know by other credentials, and who is trusted with nothing of the store: what
// others were given by a registry, and how they call their images, counts for nothing. The registry is asked for each image, also for one
// whose digest is known, as BuildKit asks for those of its clients. What the store has of an image that it gives is not fetched again. name
// is the same for those who are the same to all registries.
func (s *Source) As(name string, who registry.Credentials) *Source {
	as := &account{name: name, given: map[string]bool{}}
	return &Source{store: s.store, reg: s.reg.As(who), as: as, slots: s.slots}
}

// With returns the source for somebody whom registries know by other credentials, and whose all is that the store has: its names, and what
// others were given.
func (s *Source) With(who registry.Credentials) *Source {
	return &Source{store: s.store, reg: s.reg.As(who), slots: s.slots}
}

// Account is the name of those for whom the source is; "" for whose the store is.
func (s *Source) Account() string {
	if s == nil || s.as == nil {
		return ""
	}
	return s.as.name
}

// account are those who have their own credentials.
type account struct {
	name string

	mu    sync.Mutex
	given map[string]bool // images that a registry has given them, by repository and digest
}

// give notes that a registry has given an image.
func (a *account) give(repository string, digests ...digest.Digest) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range digests {
		a.given[repository+"@"+d.String()] = true
	}
}

// has reports whether an image may be taken from the store.
func (a *account) has(named reference.Named) bool {
	if a == nil {
		return true
	}
	pinned, ok := named.(reference.Digested)
	if !ok {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.given[named.Name()+"@"+pinned.Digest().String()]
}

// Resolve finds the image that ref names for a platform (the zero platform is this
// machine's), in this order: a digest in ref that is in the store; an image of that name in
// the local store, if it is for the platform; what ref was resolved to before; the registry.
// mode leaves some of them out. Only the registry needs a network.
//
// Errors are those of the registry ([registry.Error]), or one of errdefs' ErrNotFound (no
// such image, or none for the platform), ErrDataLoss (a registry's content contradicts
// itself), ErrNotImplemented (not a container image, or of a form not supported),
// ErrOutOfRange (absurd sizes) and ErrInvalidArgument (the reference or the mode).
func (s *Source) Resolve(ctx context.Context, ref string, platform ocispec.Platform, mode ResolveMode) (*Image, error) {
	named, err := registry.Parse(ref)
	if err != nil {
		return nil, err
	}
	switch mode {
	case "":
		mode = ResolveDefault
	case ResolveDefault, ResolvePull, ResolveLocal:
	default:
		return nil, fail(errdefs.ErrInvalidArgument, "resolving image %q: unknown mode %q (default, pull or local)", named, mode)
	}
	if platform.OS == "" && platform.Architecture == "" {
		platform = platforms.DefaultSpec()
	}
	r := &resolution{Source: s, named: named, platform: platforms.Normalize(platform), mode: mode}
	key := fmt.Sprintf("%s %s %s", named, r.platformName(), mode)
	img, err := s.resolves.Do(ctx, key, r.run)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("resolving image %q: %w", named, context.Cause(ctx))
	}
	return img, err
}

// resolution is one call of Resolve.
type resolution struct {
	*Source
	named    reference.Named
	platform ocispec.Platform
	mode     ResolveMode
	note     string // why what is here was not used, for messages
}

func (r *resolution) platformName() string { return platforms.FormatAll(r.platform) }

func (r *resolution) run(ctx context.Context) (img *Image, err error) {
	if r.mode == ResolveLocal || r.as.has(r.named) {
		img, err = r.fromStore(ctx)
	}
	if img != nil || err != nil {
		return img, err
	}
	if r.mode == ResolveLocal {
		return nil, fail(errdefs.ErrNotFound, "image %q is not in the local store, and asking the registry is turned off%s\n  build or pull it first", r.named, r.note)
	}
	desc, err := r.reg.Resolve(ctx, r.named.String())
	if err != nil {
		if r.note != "" {
			err = fmt.Errorf("%w%s", err, r.note)
		}
		return nil, err
	}
	img, err = r.load(ctx, desc, true)
	if err != nil {
		return nil, err
	}
	r.as.give(r.named.Name(), desc.Digest, img.Digest)
	if err := r.store.SetRef(ctx, img.Ref, r.platformName(), img.Root); err != nil {
		return nil, fmt.Errorf("remembering image %q: %w", img.Ref, err)
	}
	return img, nil
}

// fromStore returns the image if it is here. Neither an image nor an error means that the
// registry is to be asked; what is damaged or incomplete is not here.
func (r *resolution) fromStore(ctx context.Context) (*Image, error) {
	if pinned, ok := r.named.(reference.Digested); ok {
		dgst := pinned.Digest()
		if !r.store.HasBlob(dgst) {
			return nil, nil
		}
		// The parts of a pinned index may be fetched: nothing is asked that may have changed.
		img, err := r.load(ctx, ocispec.Descriptor{Digest: dgst, Size: unknownSize}, r.mode != ResolveLocal)
		if errors.Is(err, errNotHere) {
			r.note = "\n  in the local store: " + err.Error()
			return nil, nil
		}
		return img, err
	}
	if r.mode == ResolvePull {
		return nil, nil
	}
	if dgst, ok := r.store.LocalImage(ctx, r.named.String()); ok {
		img, err := r.load(ctx, ocispec.Descriptor{Digest: dgst, Size: unknownSize}, false)
		switch {
		case err != nil:
			r.note = "\n  in the local store: " + err.Error()
		case !platforms.Only(r.platform).Match(img.Platform):
			r.note = fmt.Sprintf("\n  the one in the local store is for %s, not %s", platforms.FormatAll(img.Platform), r.platformName())
		default:
			img.Root = img.Digest
			return img, nil
		}
	}
	if dgst, ok := r.store.Ref(ctx, r.named.String(), r.platformName()); ok {
		img, err := r.load(ctx, ocispec.Descriptor{Digest: dgst, Size: unknownSize}, false)
		if err == nil {
			return img, nil
		}
		r.note = "\n  in the local store: " + err.Error()
	}
	return nil, ctx.Err()
}

// failure is an error with a category of errdefs whose name is not part of the text.
type failure struct {
	text string
	kind error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

func fail(kind error, format string, args ...any) error {
	// An index's platforms and a manifest's types are somebody else's words.
	return &failure{text: outbound.Clean(fmt.Sprintf(format, args...)), kind: kind}
}
