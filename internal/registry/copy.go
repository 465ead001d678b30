package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxCopies is the number of blobs that are copied at the same time.
	maxCopies = 4
	// maxCopied is how many manifests one copy may have, and maxCopiedSize how many bytes they may be.
	maxCopied, maxCopiedSize = 1000, 64 << 20
	// maxCopyDepth is how deep indexes may lie in indexes.
	maxCopyDepth = 4
)

// Copier copies manifests with all that they name into one repository. What the repository has is not sent;
// what another repository of its registry has is mounted from there; anything else goes through this process, compared
// with its digest on the way, and is not kept. No other content is asked for than manifests, unless it has to be sent.
type Copier struct {
	// To is the repository, "docker.io/library/alpine".
	To string
	// Referrers are the types of artifacts about a manifest that are copied with it: its attestations, its signatures.
	Referrers []string
	// Progress, unless nil, is told what becomes of each blob and manifest, from several goroutines at once.
	Progress func(CopyEvent)

	client    *Client
	seen      map[digest.Digest]bool
	blobs     []copied
	manifests []copied // each after those that it refers to
	held      int64    // bytes of manifests
}

// CopyEvent is what became of a blob or manifest, or how many bytes of it have been sent.
type CopyEvent struct {
	Desc   ocispec.Descriptor
	Sent   int64
	Done   bool
	Pushed Pushed // when it is done
}

// copied is something that is to be copied.
type copied struct {
	from string
	desc ocispec.Descriptor
	raw  []byte // of a manifest
}

// NewCopier returns a Copier that is not safe for concurrent use.
func (c *Client) NewCopier(to string) *Copier {
	return &Copier{To: to, client: c, seen: map[digest.Digest]bool{}, Progress: func(CopyEvent) {}}
}

// Add has a manifest or index of the repository from be copied, with all that it names. Nothing is sent before Copy.
// Descriptors in manifests are claims: they say where something is, and it is compared with them.
//
// Errors are those of [Client.Document], and ErrOutOfRange for more manifests than anything honest has.
func (p *Copier) Add(ctx context.Context, from string, desc ocispec.Descriptor) error {
	return p.add(ctx, copied{from: from, desc: desc}, 0)
}

// AddDocument is [Copier.Add] for a manifest that is here: raw has the digest and the size of desc.
func (p *Copier) AddDocument(ctx context.Context, from string, desc ocispec.Descriptor, raw []byte) error {
	return p.add(ctx, copied{from: from, desc: desc, raw: raw}, 0)
}

func (p *Copier) add(ctx context.Context, what copied, depth int) error {
	from, desc := what.from, what.desc
	if p.seen[desc.Digest] {
		return nil
	}
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("copying from %s: invalid digest %q: %w", from, desc.Digest, errdefs.ErrDataLoss)
	}
	switch {
	case !isManifest(desc):
		if !images.IsNonDistributable(desc.MediaType) || len(desc.URLs) == 0 { // else it is somewhere else
			p.seen[desc.Digest] = true
			p.blobs = append(p.blobs, what)
		}
		return nil
	case depth > maxCopyDepth:
		return fmt.Errorf("copying %s from %s: indexes are nested more than %d deep: %w", desc.Digest, from, maxCopyDepth, errdefs.ErrOutOfRange)
	}
	p.seen[desc.Digest] = true
	if err := p.addManifest(ctx, what, depth); err != nil {
		return err
	}
	if len(p.Referrers) == 0 || sameRepository(from, p.To) {
		return nil
	}
	about, err := p.client.Referrers(ctx, from, desc.Digest, p.Referrers...)
	if err != nil {
		return err
	}
	for _, d := range about {
		if err := p.add(ctx, copied{from: from, desc: d}, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// addManifest adds a manifest or index and what it names. Of an image that the repository has nothing is missing, as registries
// take no manifest before its blobs; of an index there may be.
func (p *Copier) addManifest(ctx context.Context, what copied, depth int) (err error) {
	from, desc := what.from, what.desc
	if images.IsManifestType(desc.MediaType) {
		there, err := p.client.has(ctx, p.To, desc)
		if err != nil {
			return err
		}
		if there {
			p.Progress(CopyEvent{Desc: desc, Done: true, Pushed: Pushed{Existed: true}})
			return nil
		}
	}
	if what.raw == nil {
		if what.raw, err = p.client.Document(ctx, from, desc, MaxManifestSize); err != nil {
			return err
		}
	}
	if p.held += int64(len(what.raw)); p.held > maxCopiedSize || len(p.manifests) >= maxCopied {
		return fmt.Errorf("copying from %s: more than %d manifests, or %d bytes of them: %w", from, maxCopied, maxCopiedSize, errdefs.ErrOutOfRange)
	}
	mediaType, err := DocumentType(desc.MediaType, what.raw)
	if err != nil {
		return fmt.Errorf("copying from %s: manifest %s %w", from, desc.Digest, err)
	}
	if images.IsIndexType(mediaType) != images.IsIndexType(desc.MediaType) {
		return fmt.Errorf("copying from %s: manifest %s is called %q, but is of type %q: %w", from, desc.Digest, desc.MediaType, mediaType, errdefs.ErrDataLoss)
	}
	children, err := Children(what.raw)
	if err != nil {
		return fmt.Errorf("copying from %s: reading manifest %s: %w", from, desc.Digest, err)
	}
	for _, child := range children {
		if err := p.add(ctx, copied{from: from, desc: child}, depth+1); err != nil {
			return err
		}
	}
	p.manifests = append(p.manifests, what)
	return nil
}

// Children are what a manifest or index names: manifests, then the config, then layers.
func Children(raw []byte) ([]ocispec.Descriptor, error) {
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	all := doc.Manifests
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	return append(all, doc.Layers...), nil
}

// Copy copies all that was added: blobs, several at a time, then manifests, each after what it refers to. They have
// no tags: [Client.Push] gives one to the last of them.
//
// Errors are those of [Client.Push] and [Client.Verified].
func (p *Copier) Copy(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxCopies)
	for _, b := range p.blobs {
		g.Go(func() error {
			return p.push(gctx, p.To, b, func(ctx context.Context) (io.ReadCloser, error) {
				return p.client.Verified(ctx, b.from, b.desc)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range p.manifests {
		err := p.push(ctx, p.To+"@"+m.desc.Digest.String(), m, func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(m.raw)), nil
		})
		if err != nil {
			return err
		}
	}
	p.blobs, p.manifests, p.held = nil, nil, 0
	return nil
}

func (p *Copier) push(ctx context.Context, ref string, what copied, open func(context.Context) (io.ReadCloser, error)) error {
	named, err := reference.ParseNormalizedNamed(what.from)
	if err != nil {
		return fmt.Errorf("parsing image reference %q: %w: %w", what.from, err, errdefs.ErrInvalidArgument)
	}
	pushed, err := p.client.Push(ctx, ref, Content{
		Desc: what.desc, Open: open, Sources: []string{named.Name()},
		Progress: func(sent int64) { p.Progress(CopyEvent{Desc: what.desc, Sent: sent}) },
	})
	if err != nil {
		return err
	}
	p.Progress(CopyEvent{Desc: what.desc, Done: true, Pushed: pushed})
	return nil
}

// has reports whether the repository of ref has a manifest, as the host says that is pushed to.
func (c *Client) has(ctx context.Context, ref string, desc ocispec.Descriptor) (there bool, err error) {
	named, err := parsePush(ref, desc)
	if err != nil {
		return false, err
	}
	op := newOperation(named, desc)
	op.push = true
	err = c.retry(ctx, op, func(ctx context.Context) error {
		e, err := c.pushEndpoint(named)
		if err != nil {
			return err
		}
		there, err = e.exists(ctx, "manifests/"+desc.Digest.String(), desc)
		if statusOf(err) == http.StatusForbidden || unauthenticated(err) {
			return nil // the push will tell
		}
		return err
	})
	if err != nil {
		return false, c.explain(ctx, op, err)
	}
	return there, nil
}

func sameRepository(a, b string) bool {
	x, err := reference.ParseNormalizedNamed(a)
	y, err2 := reference.ParseNormalizedNamed(b)
	return err == nil && err2 == nil && x.Name() == y.Name()
}
