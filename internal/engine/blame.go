package engine

import (
	"errors"
	"fmt"

	"github.com/slipway-build/slipway/internal/store"
)

// blame says where a layer came from of which no form could be had, and finds the node that an error about
// it belongs to: the image, among those that n stands on or copies from, or else n.
//
// A layer that no image has is one of a result: of another machine's, whose claim about it may be false.
// The result is not used again, and the build goes on without it.
func (r *Run) blame(n *node, err error) (*node, error) {
	var about *store.LayerError
	if !errors.As(err, &about) {
		return n, err
	}
	for _, in := range r.nodesBelow(n) {
		r.mu.Lock()
		img := r.images[in]
		r.mu.Unlock()
		if img == nil {
			continue
		}
		for i, l := range img.Manifest.Layers {
			if l.Digest == about.Blob && img.DiffIDs[i] == about.DiffID {
				return in, fmt.Errorf("image %s: layer %d of %d: %w", img.Ref, i+1, len(img.Manifest.Layers), err)
			}
		}
	}
	if !errors.Is(err, store.ErrFalse) {
		return n, err
	}
	for _, f := range r.opt.Foreign {
		f.Drop(about.Blob)
	}
	return n, fmt.Errorf("%w: %w", err, store.ErrDamaged)
}
