package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/meter"
	"github.com/slipway-build/slipway/internal/progress"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/terminal"
)

const (
	schemeImage = "docker-image://"
	schemeLocal = "local://"
	// schemeLayout is that of images in a directory of the user's.
	schemeLayout = "oci-layout://"
)

func isLocal(n *node) bool {
	return strings.HasPrefix(n.v.Op.GetSource().GetIdentifier(), schemeLocal)
}

// resolve finds out which image a node is.
func (r *Run) resolve(ctx context.Context, n *node, src *pb.SourceOp) (*imagesource.Image, error) {
	img, err := n.src.image.do(ctx, n.src.ctx, r, func(ctx context.Context) (*imagesource.Image, error) {
		return r.resolveImage(ctx, n, src)
	})
	if err == nil {
		n.image.Store(img)
	}
	return img, err
}

func (r *Run) resolveImage(ctx context.Context, n *node, src *pb.SourceOp) (*imagesource.Image, error) {
	want, err := wantedOf(src)
	if err != nil {
		return nil, err
	}
	var img *imagesource.Image
	if ref, ok := strings.CutPrefix(src.Identifier, schemeLayout); ok {
		l, err := r.layout(src)
		if err != nil {
			return nil, err
		}
		img, err = r.opt.Images.ResolveLayout(ctx, l, ref, r.platform(n.v.Op.Platform))
		if err != nil {
			return nil, err
		}
		return want.of(img)
	}
	mode := imagesource.ResolveDefault
	// What a name was resolved to before does not tell the digest of the index that it was found by.
	if r.opt.Pull || want.checksum != "" || src.Attrs[pb.AttrImageResolveMode] == pb.AttrImageResolveModeForcePull {
		mode = imagesource.ResolvePull
	}
	ref := strings.TrimPrefix(src.Identifier, schemeImage)
	if img, err = r.opt.Images.Resolve(ctx, ref, r.platform(n.v.Op.Platform), mode); err != nil {
		return nil, err
	}
	return want.of(img)
}

// wanted is what a source wants of an image, whatever its reference is.
type wanted struct {
	layers   int           // only so many of them; 0 is all
	checksum digest.Digest // of what the reference names; "" is any
}

func wantedOf(src *pb.SourceOp) (w wanted, err error) {
	limit, ok := src.Attrs[pb.AttrImageLayerLimit]
	if strings.HasPrefix(src.Identifier, schemeLayout) {
		limit, ok = src.Attrs[pb.AttrOCILayoutLayerLimit]
	}
	if ok {
		if w.layers, err = strconv.Atoi(limit); err != nil || w.layers <= 0 {
			return w, fmt.Errorf("invalid layer limit %s", limit)
		}
	}
	if sum, ok := src.Attrs[pb.AttrImageChecksum]; ok {
		if w.checksum, err = digest.Parse(sum); err != nil {
			return w, fmt.Errorf("invalid image checksum %s: %w", sum, err)
		}
	}
	return w, nil
}

// of takes it of an image, which others have too.
func (w wanted) of(img *imagesource.Image) (*imagesource.Image, error) {
	if w.checksum != "" && img.Root != w.checksum {
		return nil, fmt.Errorf("image digest %s for %s does not match expected checksum %s", img.Root, img.Ref, w.checksum)
	}
	switch n := len(img.Manifest.Layers); {
	case w.layers > n:
		return nil, fmt.Errorf("layer limit %d is greater than the number of layers in the image %d", w.layers, n)
	case w.layers > 0 && w.layers < n:
		part := *img
		part.Manifest.Layers, part.DiffIDs = img.Manifest.Layers[:w.layers:w.layers], img.DiffIDs[:w.layers:w.layers]
		return &part, nil
	}
	return img, nil
}

// Images is what images of registries are found with.
func (r *Run) Images() *imagesource.Source { return r.opt.Images }

// ResolveImage asks for an image once for all runs whose registries know them as the same, and shows it as one step. key says all that is
// asked, and find asks. Where that
// fails as the build of another run has ended, which began it, this one asks itself.
func (r *Run) ResolveImage(ctx context.Context, key, name string, find func(context.Context) (*imagesource.Image, error)) (*imagesource.Image, error) {
	ctx, end := r.begin(ctx)
	defer end()
	p := pool(r, r.resolved, key+"\nas "+r.opt.Images.Account(), true)
	v := progress.Vertex{Digest: digest.FromString(key), Name: name}
	seat := p.join(&seat{run: r, what: p, v: v})
	img, err := p.do(ctx, p.ctx, r, func(ctx context.Context) (*imagesource.Image, error) {
		p.start()
		img, err := find(ctx)
		if err != nil && ctx.Err() != nil {
			p.end(context.Canceled)
		} else {
			p.end(err)
		}
		return img, err
	})
	p.leave(seat, context.Canceled)
	if ctx.Err() == nil && !r.hears(v.Digest) { // another run asked, and had the answer
		progress.Start(r.toldOf(v, p), v).Done(err)
	}
	return img, err
}

// layout is the one that a source is of.
func (r *Run) layout(src *pb.SourceOp) (imagesource.Layout, error) {
	return r.opt.Layouts.Layout(src.Attrs[pb.AttrOCILayoutSessionID], src.Attrs[pb.AttrOCILayoutStoreID])
}

// Layout is one of the build's layouts.
func (r *Run) Layout(id string) (imagesource.Layout, error) { return r.opt.Layouts.Layout("", id) }

// ResolveLayout finds an image in one of the build's layouts. ref has the digest.
func (r *Run) ResolveLayout(ctx context.Context, ref, id string, platform ocispec.Platform) (*imagesource.Image, error) {
	l, err := r.Layout(id)
	if err != nil {
		return nil, err
	}
	return r.opt.Images.ResolveLayout(ctx, l, ref, platform)
}

// pull names the layers of an image. Those that are not here are fetched when something needs
// them, and unpacked when something needs their files.
func (r *Run) pull(ctx context.Context, n *node, src *pb.SourceOp) (*pulling, error) {
	img, err := r.resolve(ctx, n, src)
	if err != nil {
		return nil, err
	}
	return n.src.layers.do(ctx, n.src.ctx, r, func(ctx context.Context) (*pulling, error) {
		snap, err := imagesource.Snapshot(ctx, r.Engine.opt.Store, img)
		if err != nil {
			return nil, err
		}
		p := &pulling{of: n.src, img: img, snap: snap, fetch: r.opt.Images.PullLayer}
		if _, ok := src.Attrs[pb.AttrOCILayoutStoreID]; ok {
			layout, err := r.layout(src)
			if err != nil {
				return nil, err
			}
			p.fetch = func(ctx context.Context, img *imagesource.Image, i int, progress imagesource.Progress) error {
				return r.opt.Images.PullLayout(ctx, layout, img, i, progress)
			}
		}
		for i, id := range snap {
			if r.Engine.opt.Store.HasBlob(img.Manifest.Layers[i].Digest) {
				continue
			}
			p.missing = true
			n.src.whenOver(r.Engine.opt.Store.SetFetch(id, func(ctx context.Context) error { return p.layer(ctx, i) }))
		}
		return p, nil
	})
}

// pulling is an image whose layers are fetched one by one, which a display sees as one step as
// long as they overlap.
type pulling struct {
	of      *source
	img     *imagesource.Image
	snap    layer.Snapshot
	missing bool // some layers were not here
	fetch   func(ctx context.Context, img *imagesource.Image, i int, progress imagesource.Progress) error

	mu    sync.Mutex
	users int
	began time.Time
	step  *progress.Step
}

// layer fetches the i-th layer.
func (p *pulling) layer(ctx context.Context, i int) error {
	p.mu.Lock()
	if p.users++; p.users == 1 {
		p.began, p.step = time.Now(), p.of.start()
	}
	step := p.step
	p.mu.Unlock()
	metered := meter.Begin(ctx, meter.Fetch, string(p.snap[i]))
	err := p.fetch(ctx, p.img, i, func(desc ocispec.Descriptor, current, total int64) {
		step.Status(desc.Digest.String(), current, total, current == total)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	if err == nil {
		metered(p.img.Manifest.Layers[i].Size, p.img.Manifest.Layers[i].Size)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // others may go on with it, and who does not leaves
	}
	if p.users == 0 || err != nil {
		p.of.end(err)
	}
	if p.users == 0 {
		p.of.record(StepRecord{Reason: "its layers were not here", Started: p.began, Took: time.Since(p.began), Layers: layerNames(p.snap)})
	}
	return err
}

func (r *Run) localTree(ctx context.Context, src *pb.SourceOp) (local.Context, layer.Tree, error) {
	c, err := r.opt.Contexts.Context(src)
	if err != nil {
		return nil, nil, err
	}
	include, exclude, err := local.Patterns(src)
	if err != nil {
		return nil, nil, err
	}
	tree, err := c.Tree(ctx, include, exclude)
	return c, tree, err
}

// localDigest digests files of a local context. A display is shown one step for it, however many
// instructions read the context at the same time.
func (r *Run) localDigest(ctx context.Context, in edge, sel string, copies []*pb.FileActionCopy) (digested, error) {
	src := in.n.src
	seat := src.join(in.n.seat())
	defer src.leave(seat, context.Canceled)
	return src.content(sel).do(ctx, src.ctx, r, func(ctx context.Context) (d digested, err error) {
		c, tree, err := r.localTree(ctx, in.n.v.Op.GetSource())
		if err != nil {
			return d, err
		}
		sent, _ := c.(local.Sent)
		done := src.reading(localName(in.n.v), sent)
		d.digest, d.list, err = fileop.SourceList(ctx, tree, copies, func(e *layer.Entry) (digest.Digest, error) {
			src.reader.add(e.Size)
			return c.Hash(ctx, e)
		}, r.Engine.tmp())
		done()
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w in the build context", err)
		}
		return d, err
	})
}

// localName is the name of a local source, for displays: a client may name it as it likes.
func localName(v *graph.Vertex) string {
	return terminal.Short(strings.TrimPrefix(v.Op.GetSource().GetIdentifier(), schemeLocal), maxCommand)
}

// contextReader counts who reads a local context.
type contextReader struct {
	mu    sync.Mutex
	users int
	bytes int64
	step  *progress.Step
	name  string     // of the source
	sent  local.Sent // nil: a directory of this machine
}

// add tells how much is read.
func (c *contextReader) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += n
	c.tell(false)
}

func (c *contextReader) tell(over bool) {
	switch {
	case c.sent != nil:
		c.step.Transferring(c.name, c.sent.Sent(), over)
	case over:
		c.step.Status("reading context", c.bytes, c.bytes, true)
	default:
		c.step.Status("reading context", c.bytes, 0, false)
	}
}

// reading starts the context's step unless it is under way; the step ends when the last
// user calls done.
func (s *source) reading(name string, sent local.Sent) (done func()) {
	c := &s.reader
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users++; c.users == 1 {
		c.step, c.name, c.sent = s.start(), name, sent
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users--; c.users == 0 {
			c.tell(true)
			s.end(nil)
		}
	}
}
