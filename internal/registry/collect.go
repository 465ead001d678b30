package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// maxCollects is the number of manifests that are read at the same time.
	maxCollects = 8
	// maxCopied is how many manifests one copy may have, and maxCopiedSize how many bytes they may be.
	maxCopied, maxCopiedSize = 1000, 64 << 20
	// maxCopyDepth is how deep indexes may lie in indexes.
	maxCopyDepth = 4
)

// collector finds what a copy consists of. Manifests are read at the same time, each once.
type collector struct {
	*Copier
	group *errgroup.Group
	slots chan struct{}

	mu    sync.Mutex
	nodes map[digest.Digest]*node
	held  int64 // bytes of manifests
	count int   // manifests
}

// node is a blob or manifest.
type node struct {
	copied
	there     bool // the repository has it, and what it names
	children  []ocispec.Descriptor
	referrers []ocispec.Descriptor
}

// collect returns what is to be copied: blobs, and manifests, each after what it refers to.
func (p *Copier) collect(ctx context.Context) (blobs, manifests []copied, err error) {
	c := &collector{Copier: p, slots: make(chan struct{}, maxCollects), nodes: map[digest.Digest]*node{}}
	c.group, ctx = errgroup.WithContext(ctx)
	for _, root := range p.roots {
		if err = c.add(ctx, root, 0); err != nil {
			break
		}
	}
	if werr := c.group.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		return nil, nil, err
	}
	p.About = map[digest.Digest][]ocispec.Descriptor{}
	for d, n := range c.nodes {
		if len(n.referrers) > 0 {
			p.About[d] = n.referrers
		}
	}
	o := &order{nodes: c.nodes, seen: map[digest.Digest]bool{}}
	for _, root := range p.roots {
		o.visit(root.desc.Digest)
	}
	return o.blobs, o.manifests, nil
}

// add takes something in, unless it is known. A manifest is read, by a goroutine of its own.
func (c *collector) add(ctx context.Context, what copied, depth int) error {
	desc := what.desc
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("copying from %s: invalid digest %q: %w", what.from, desc.Digest, errdefs.ErrDataLoss)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[desc.Digest] != nil || images.IsNonDistributable(desc.MediaType) && len(desc.URLs) > 0 {
		return nil // known, or somewhere else
	}
	n := &node{copied: what}
	c.nodes[desc.Digest] = n
	if !isManifest(desc) {
		return nil
	}
	c.count++
	c.held += min(max(0, desc.Size), maxCopiedSize+1)
	switch {
	case depth > maxCopyDepth:
		return fmt.Errorf("copying %s from %s: indexes are nested more than %d deep: %w", desc.Digest, what.from, maxCopyDepth, errdefs.ErrOutOfRange)
	case c.count > maxCopied || c.held > maxCopiedSize:
		return fmt.Errorf("copying from %s: more than %d manifests, or %d bytes of them: %w", what.from, maxCopied, maxCopiedSize, errdefs.ErrOutOfRange)
	}
	c.group.Go(func() error {
		if err := c.read(ctx, n); err != nil {
			return err
		}
		for _, list := range [][]ocispec.Descriptor{n.children, n.referrers} {
			for _, d := range list {
				if err := c.add(ctx, copied{from: what.from, desc: d}, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return nil
}

// read reads a manifest, and finds what is about it. Of an image that the repository has nothing is missing, as registries take no
// manifest before its blobs; of an index there may be.
func (c *collector) read(ctx context.Context, n *node) (err error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if images.IsManifestType(n.desc.MediaType) {
		if n.there, err = c.Into.Has(ctx, c.To, n.desc); err != nil {
			return err
		}
	}
	if n.there {
		c.Progress(CopyEvent{Desc: n.desc, Done: true, Pushed: Pushed{Existed: true}})
	} else if err := c.readDocument(ctx, n); err != nil {
		return err
	}
	if len(c.Referrers) > 0 && !sameRepository(n.from, c.To) {
		n.referrers, err = c.From.Referrers(ctx, n.from, n.desc.Digest, c.Referrers...)
	}
	return err
}

func (c *collector) readDocument(ctx context.Context, n *node) (err error) {
	if n.raw == nil {
		if n.raw, err = c.From.Document(ctx, n.from, n.desc, MaxManifestSize); err != nil {
			return err
		}
	}
	if _, err := DocumentType(n.desc.MediaType, n.raw); err != nil {
		return fmt.Errorf("copying from %s: manifest %s %w", n.from, n.desc.Digest, err)
	}
	if n.children, err = namedBy(n.raw); err != nil {
		return fmt.Errorf("copying from %s: reading manifest %s: %w", n.from, n.desc.Digest, err)
	}
	return nil
}

// namedBy are what a manifest or index names: manifests, then the config, then layers.
func namedBy(raw []byte) ([]ocispec.Descriptor, error) {
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

// order puts what was collected in the order in which it can be sent.
type order struct {
	nodes            map[digest.Digest]*node
	seen             map[digest.Digest]bool
	blobs, manifests []copied
}

func (o *order) visit(d digest.Digest) {
	n := o.nodes[d]
	if n == nil || o.seen[d] {
		return
	}
	o.seen[d] = true
	for _, child := range n.children {
		o.visit(child.Digest)
	}
	switch {
	case !isManifest(n.desc):
		o.blobs = append(o.blobs, n.copied)
	case !n.there:
		o.manifests = append(o.manifests, n.copied)
	}
	for _, r := range n.referrers {
		o.visit(r.Digest)
	}
}
