package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/progress"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
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

func (r *Run) resolve(n *node, src *pb.SourceOp) (*imagesource.Image, error) {
	img, err := r.resolveImage(n, src)
	if err == nil {
		r.Group.mu.Lock()
		defer r.Group.mu.Unlock()
		r.images[n] = img
	}
	return img, err
}

func (r *Run) resolveImage(n *node, src *pb.SourceOp) (*imagesource.Image, error) {
	if ref, ok := strings.CutPrefix(src.Identifier, schemeLayout); ok {
		return r.ResolveLayout(ref, src.Attrs[pb.AttrOCILayoutStoreID], r.platform(n.v.Op.Platform))
	}
	mode := imagesource.ResolveDefault
	if r.opt.Pull || src.Attrs[pb.AttrImageResolveMode] == pb.AttrImageResolveModeForcePull {
		mode = imagesource.ResolvePull
	}
	ref := strings.TrimPrefix(src.Identifier, schemeImage)
	return r.Engine.opt.Images.Resolve(r.ctx, ref, r.platform(n.v.Op.Platform), mode)
}

// Layout is one of the build's layouts.
func (r *Run) Layout(id string) (imagesource.Layout, error) {
	l, ok := r.opt.Layouts[id]
	if !ok {
		return l, fmt.Errorf("the build has no OCI layout %q", id)
	}
	return l, nil
}

// ResolveLayout finds an image in one of the build's layouts. ref has the digest.
func (r *Run) ResolveLayout(ref, id string, platform ocispec.Platform) (*imagesource.Image, error) {
	l, err := r.Layout(id)
	if err != nil {
		return nil, err
	}
	return r.Engine.opt.Images.ResolveLayout(r.ctx, l, ref, platform)
}

// pull names the layers of an image. Those that are not here are fetched when something needs
// them, and unpacked when something needs their files.
func (r *Run) pull(n *node, src *pb.SourceOp) (layer.Snapshot, error) {
	img, err := r.resolve(n, src)
	if err != nil {
		return nil, err
	}
	snap, err := imagesource.Snapshot(r.ctx, r.Engine.opt.Store, img)
	if err != nil {
		return nil, err
	}
	p, missing := &pulling{r: r, n: n, img: img, fetch: r.Engine.opt.Images.PullLayer}, false
	if id, ok := src.Attrs[pb.AttrOCILayoutStoreID]; ok {
		p.fetch = func(ctx context.Context, img *imagesource.Image, i int, progress imagesource.Progress) error {
			return r.Engine.opt.Images.PullLayout(ctx, r.opt.Layouts[id], img, i, progress)
		}
	}
	for i, id := range snap {
		if r.Engine.opt.Store.HasBlob(img.Manifest.Layers[i].Digest) {
			continue
		}
		missing = true
		forget := r.Engine.opt.Store.SetFetch(id, func(ctx context.Context) error { return p.layer(ctx, i) })
		r.whenOver(forget)
	}
	if !missing {
		r.tellCached(n)
		return snap, nil
	}
	r.whenOver(func() {
		if p.step == nil && errors.Is(context.Cause(r.ctx), errOver) { // others had, or fetched, all that was needed of it
			r.tellCached(n)
		}
	})
	return snap, nil
}

// pulling is an image whose layers are fetched one by one, which a display sees as one step as
// long as they overlap.
type pulling struct {
	r     *Run
	n     *node
	img   *imagesource.Image
	fetch func(ctx context.Context, img *imagesource.Image, i int, progress imagesource.Progress) error

	mu    sync.Mutex
	users int
	began time.Time
	step  *progress.Step
}

// layer fetches the i-th layer.
func (p *pulling) layer(ctx context.Context, i int) error {
	p.mu.Lock()
	if p.users++; p.users == 1 {
		p.began, p.step = time.Now(), p.r.start(p.n)
	}
	step := p.step
	p.mu.Unlock()
	err := p.fetch(ctx, p.img, i, func(desc ocispec.Descriptor, current, total int64) {
		step.Status(desc.Digest.String(), current, total, current == total)
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // another layer failed, and that is told
	}
	p.mu.Lock()
	if p.users--; p.users == 0 || err != nil {
		step.Done(err)
	}
	if p.users == 0 {
		p.r.record(StepRecord{Name: p.n.v.Name(), Digest: p.n.v.Digest, Reason: "its layers were not here", Started: p.began, Took: time.Since(p.began)})
	}
	p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		return p.r.fail(p.n, err)
	}
	return err
}

func (r *Run) localTree(src *pb.SourceOp) (local.Context, layer.Tree, error) {
	name := strings.TrimPrefix(src.Identifier, schemeLocal)
	c, ok := r.opt.Contexts[name]
	if !ok {
		return nil, nil, fmt.Errorf("no build context is named %q", name)
	}
	include, exclude, err := local.Patterns(src)
	if err != nil {
		return nil, nil, err
	}
	tree, err := c.Tree(include, exclude)
	return c, tree, err
}

// localDigest digests files of a local context. A display is shown one step for it, however many
// instructions read the context at the same time.
func (r *Run) localDigest(in edge, copies []*pb.FileActionCopy) (digest.Digest, error) {
	c, tree, err := r.localTree(in.n.v.Op.GetSource())
	if err != nil {
		return "", err
	}
	done := in.n.run.readingContext(in.n)
	d, err := fileop.SourceDigest(r.ctx, tree, copies, func(e *layer.Entry) (digest.Digest, error) {
		in.n.reader.add(e.Size)
		return c.Hash(e)
	})
	done()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w in the build context", err)
	}
	return d, err
}

// contextReader counts who reads a local context.
type contextReader struct {
	mu    sync.Mutex
	users int
	bytes int64
	step  *progress.Step
}

// add tells how much is read.
func (c *contextReader) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += n
	c.step.Status("reading context", c.bytes, 0, false)
}

// readingContext starts the context's step unless it is under way; the step ends when the last
// user calls done.
func (r *Run) readingContext(n *node) (done func()) {
	c := &n.reader
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users++; c.users == 1 {
		c.step = r.start(n)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users--; c.users == 0 {
			c.step.Status("reading context", c.bytes, c.bytes, true)
			c.step.Done(nil)
		}
	}
}
