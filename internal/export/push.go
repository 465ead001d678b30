package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// maxUploads is the number of blobs that are pushed at the same time.
const maxUploads = 4

// PushState is what becomes of a blob or manifest that is pushed.
type PushState int

const (
	// PushWaiting is told first, of everything that will be pushed.
	PushWaiting PushState = iota
	// PushSending is told again and again, with the bytes that were sent.
	PushSending
	// PushDone, PushExisted and PushMounted are told last.
	PushDone
	PushExisted // the registry had it
	PushMounted // another repository of the registry shared it
)

// PushEvent tells how far a part of an image is.
type PushEvent struct {
	// Name is the image that is pushed, with its tag for the manifest that gets the tag, otherwise
	// without.
	Name  string
	Desc  ocispec.Descriptor
	State PushState
	Sent  int64  // bytes
	From  string // the repository of PushMounted, without the registry: "library/alpine"
}

// PushOptions are the choices of a push. The zero value pushes under tags.
type PushOptions struct {
	// ByDigest pushes to repositories without a tag.
	ByDigest bool
	// Insecure lets the registries have any certificate, or none.
	Insecure bool
	// Progress, unless nil, is told what happens, from several goroutines at once.
	Progress func(PushEvent)
	// Phase, unless nil, is told what begins, and when it is done, in BuildKit's words.
	Phase func(what string, done bool)
}

// Push pushes a manifest, or an index with everything that it names, to registries under full image
// names: first blobs, then manifests, each after what it refers to.
//
// The manifests must be in the store. Blobs need not be: one that a repository of the same registry
// is known to have is mounted from there, others are fetched from where they are known to be.
//
// Errors of registries are [registry.Error]; a blob that is nowhere to be had is [store.ErrNotFound].
func Push(ctx context.Context, s *store.Store, c *registry.Client, desc ocispec.Descriptor, names []string, opt PushOptions) error {
	if opt.Progress == nil {
		opt.Progress = func(PushEvent) {}
	}
	if opt.Phase == nil {
		opt.Phase = func(string, bool) {}
	}
	p := &pusher{store: s, client: c, opt: opt}
	if err := p.collect(ctx, desc); err != nil {
		return fmt.Errorf("pushing image: %w", err)
	}
	var order []string // of repositories
	tags := map[string][]string{}
	for _, name := range names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("pushing image: invalid image name %q: %w", name, err)
		}
		if opt.Insecure {
			c.AllowInsecure(reference.Domain(ref))
		}
		repo := ref.Name()
		if _, ok := tags[repo]; !ok {
			order = append(order, repo)
		}
		switch tagged, ok := reference.TagNameOnly(ref).(reference.Tagged); {
		case opt.ByDigest && !reference.IsNameOnly(ref):
			return fmt.Errorf("pushing image: can't push tagged ref %s by digest", name)
		case opt.ByDigest || !ok:
			tags[repo] = append(tags[repo], "")
		default:
			tags[repo] = append(tags[repo], tagged.Tag())
		}
	}
	for _, repo := range order {
		if err := p.pushTo(ctx, repo, tags[repo]); err != nil {
			return err
		}
	}
	return nil
}

// pusher is one call of Push.
type pusher struct {
	store  *store.Store
	client *registry.Client
	opt    PushOptions

	blobs     []ocispec.Descriptor // layers, configs, attestations: each once
	manifests []ocispec.Descriptor // each once, after those that it refers to; the last one is the root
	seen      map[digest.Digest]bool

	fetching sync.Mutex // of blobs that are not here
}

// collect finds all that is below a manifest or an index.
func (p *pusher) collect(ctx context.Context, desc ocispec.Descriptor) error {
	if p.seen == nil {
		p.seen = map[digest.Digest]bool{}
	}
	if p.seen[desc.Digest] || images.IsNonDistributable(desc.MediaType) && len(desc.URLs) > 0 {
		return nil // known, or somewhere else
	}
	p.seen[desc.Digest] = true
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Blobs     []ocispec.Descriptor `json:"blobs"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		p.blobs = append(p.blobs, desc)
		return nil
	}
	if err := p.ensure(ctx, desc); err != nil {
		return err
	}
	raw, err := p.store.ReadBlob(ctx, desc.Digest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, list := range [][]ocispec.Descriptor{doc.Manifests, doc.Layers, doc.Blobs} {
		for _, child := range list {
			if err := p.collect(ctx, child); err != nil {
				return err
			}
		}
	}
	p.manifests = append(p.manifests, desc)
	return nil
}

// pushTo pushes everything to one repository.
func (p *pusher) pushTo(ctx context.Context, repo string, tags []string) error {
	for _, desc := range p.blobs {
		p.opt.Progress(PushEvent{Name: repo, Desc: desc, State: PushWaiting})
	}
	p.opt.Phase("pushing layers", false)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxUploads)
	for _, desc := range p.blobs {
		g.Go(func() error { return p.push(gctx, repo, repo, desc) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.opt.Phase("pushing layers", true)
	root := len(p.manifests) - 1
	for _, desc := range p.manifests[:root] {
		if err := p.push(ctx, repo, repo+"@"+desc.Digest.String(), desc); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		desc := p.manifests[root]
		name, ref := repo, repo+"@"+desc.Digest.String()
		if tag != "" {
			name, ref = repo+":"+tag, repo+":"+tag
		}
		phase := "pushing manifest for " + name + "@" + desc.Digest.String()
		p.opt.Phase(phase, false)
		if err := p.push(ctx, name, ref, desc); err != nil {
			return err
		}
		p.opt.Phase(phase, true)
	}
	all := make([]digest.Digest, 0, len(p.blobs))
	for _, desc := range p.blobs {
		all = append(all, desc.Digest)
	}
	return p.store.AddSources(ctx, repo, all...)
}

// push pushes one blob or manifest.
func (p *pusher) push(ctx context.Context, name, ref string, desc ocispec.Descriptor) error {
	event := PushEvent{Name: name, Desc: desc}
	tell := func(state PushState) {
		event.State = state
		p.opt.Progress(event)
	}
	sources, err := p.store.Sources(ctx, desc.Digest)
	if err != nil {
		return err
	}
	pushed, err := p.client.Push(ctx, ref, registry.Content{
		Desc: desc, Sources: sources,
		Open: func(ctx context.Context) (io.ReadCloser, error) {
			if err := p.ensure(ctx, desc); err != nil {
				return nil, err
			}
			return p.store.OpenBlob(ctx, desc.Digest)
		},
		Progress: func(sent int64) {
			p.opt.Progress(PushEvent{Name: name, Desc: desc, State: PushSending, Sent: sent})
		},
	})
	switch {
	case err != nil:
		return err
	case pushed.Existed:
		tell(PushExisted)
	case pushed.MountedFrom != "":
		event.From = pushed.MountedFrom
		tell(PushMounted)
	default:
		event.Sent = desc.Size
		tell(PushDone)
	}
	return nil
}

// ensure brings a blob into the store, from a repository that is known to have it. One is fetched at
// a time: that there are any is rare.
func (p *pusher) ensure(ctx context.Context, desc ocispec.Descriptor) error {
	if p.store.HasBlob(desc.Digest) {
		return nil
	}
	p.fetching.Lock()
	defer p.fetching.Unlock()
	if p.store.HasBlob(desc.Digest) {
		return nil
	}
	sources, err := p.store.Sources(ctx, desc.Digest)
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		return fmt.Errorf("blob %s of the image is not in the store, and no registry is known to have it: build or pull the image again: %w", desc.Digest, store.ErrNotFound)
	}
	var errs []error
	for _, repo := range sources {
		err := p.fetch(ctx, repo, desc)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *pusher) fetch(ctx context.Context, repo string, desc ocispec.Descriptor) error {
	r, err := p.client.Fetch(ctx, repo, desc)
	if err != nil {
		return err
	}
	return errors.Join(p.store.WriteBlob(ctx, desc, r), r.Close())
}
