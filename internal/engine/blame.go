package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/store"
)

// Blame is for errors that came out when values of the run were used: about a layer it adds what errors of
// the run itself say.
func (r *Run) Blame(ctx context.Context, err error) error {
	if !errors.As(err, new(*store.LayerError)) {
		return err
	}
	return r.fail(ctx, nil, err)
}

// blame says where a layer came from of which no form could be had, and finds the node that an error about
// it belongs to: the image, or else n, which was in need of it and may be nil.
//
// A layer that no image has is one of a result: of another machine's, whose claim about it may be false.
// Nothing of that cache is used any more, and the build begins again.
func (r *Run) blame(ctx context.Context, n *node, err error) (*node, error) {
	var about *store.LayerError
	if !errors.As(err, &about) {
		return n, err
	}
	if in, i := r.imageWith(about.DiffID, about.Blob); in != nil {
		img := in.image.Load()
		return in, fmt.Errorf("image %s: layer %d of %d: %w", img.Ref, i+1, len(img.Manifest.Layers), err)
	}
	if !errors.Is(err, store.ErrFalse) {
		return n, err
	}
	for _, f := range r.believed() {
		if f.Distrust(ctx, about.Blob, err) {
			r.tellForeign(f, about.Blob, err)
		}
	}
	return n, fmt.Errorf("%w: %w", err, store.ErrDamaged)
}

// imageWith finds the image of the run, or of one whose results it stands on, that has a layer, and the layer's place in it.
func (r *Run) imageWith(diffID, blob digest.Digest) (*node, int) {
	r.mu.Lock()
	for _, n := range r.nodes {
		img := n.image.Load()
		if img == nil {
			continue
		}
		for i, l := range img.Manifest.Layers {
			if l.Digest == blob && img.DiffIDs[i] == diffID {
				r.mu.Unlock()
				return n, i
			}
		}
	}
	r.mu.Unlock()
	for _, other := range r.opt.Links {
		if n, i := other.imageWith(diffID, blob); n != nil {
			return n, i
		}
	}
	return nil, 0
}
