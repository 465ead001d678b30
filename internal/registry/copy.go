package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// maxCopies is the number of blobs that are copied at the same time.
const maxCopies = 4

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
	// From is what is copied from, and Into what is copied to, by references of their own forms: the client, unless something else is set.
	From Origin
	Into Destination
	// About are the artifacts of Referrers that were found, by what they are about; once Copy has returned.
	About map[digest.Digest][]ocispec.Descriptor

	roots []copied
}

// Origin is what a Copier copies from. Its methods are as those of [Client], and take the text of a reference as Add was given it.
type Origin interface {
	Document(ctx context.Context, ref string, desc ocispec.Descriptor, limit int64) ([]byte, error)
	Verified(ctx context.Context, ref string, desc ocispec.Descriptor) (io.ReadCloser, error)
	Referrers(ctx context.Context, ref string, d digest.Digest, types ...string) ([]ocispec.Descriptor, error)
}

// Destination is what a Copier copies to. References are To, and "@" with a digest behind it for manifests.
type Destination interface {
	// Has reports whether a manifest is there, and all that it names with it.
	Has(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error)
	Push(ctx context.Context, ref string, content Content) (Pushed, error)
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

// NewCopier returns a Copier. It is not safe for concurrent use.
func (c *Client) NewCopier(to string) *Copier {
	return &Copier{To: to, From: c, Into: c, Progress: func(CopyEvent) {}}
}

// Add has a manifest or index of the repository from be copied, with all that it names. raw is the manifest where it is here: with
// the digest and the size of desc.
func (p *Copier) Add(from string, desc ocispec.Descriptor, raw []byte) {
	p.roots = append(p.roots, copied{from, desc, raw})
}

// Copy copies all that was added. It reads all manifests before it sends anything: blobs then, several at a time, and manifests, each
// after what it refers to. They have no tags: [Client.Push] gives one to the last of them.
//
// Descriptors in manifests are claims: they say where something is, and it is compared with them. Errors are those of
// [Client.Document], [Client.Verified] and [Client.Push], and ErrOutOfRange for more manifests than anything honest has.
func (p *Copier) Copy(ctx context.Context) error {
	blobs, manifests, err := p.collect(ctx)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxCopies)
	for _, b := range blobs {
		g.Go(func() error {
			return p.push(gctx, p.To, b, func(ctx context.Context) (io.ReadCloser, error) {
				return p.From.Verified(ctx, b.from, b.desc)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, m := range manifests {
		err := p.push(ctx, p.To+"@"+m.desc.Digest.String(), m, func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(m.raw)), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Copier) push(ctx context.Context, ref string, what copied, open func(context.Context) (io.ReadCloser, error)) error {
	content := Content{Desc: what.desc, Open: open, Progress: func(sent int64) { p.Progress(CopyEvent{Desc: what.desc, Sent: sent}) }}
	if named, err := reference.ParseNormalizedNamed(what.from); err == nil { // otherwise it is no repository
		content.Sources = []string{named.Name()}
	}
	pushed, err := p.Into.Push(ctx, ref, content)
	if err != nil {
		return err
	}
	p.Progress(CopyEvent{Desc: what.desc, Done: true, Pushed: pushed})
	return nil
}

// Has reports whether the repository of ref has a manifest, as the host says that is pushed to. Registries take none before what it names.
func (c *Client) Has(ctx context.Context, ref string, desc ocispec.Descriptor) (there bool, err error) {
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
