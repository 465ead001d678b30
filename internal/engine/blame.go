package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/slipway-build/slipway/internal/store"
)

// Blame is for errors that came out when values of the run were used: about a layer it adds what errors of
// the run itself say.
func (r *Run) Blame(err error) error {
	if !errors.As(err, new(*store.LayerError)) {
		return err
	}
	return r.fail(nil, err)
}

// blame says where a layer came from of which no form could be had, and finds the node that an error about
// it belongs to: the image, or else n, which was in need of it and may be nil.
//
// A layer that no image has is one of a result: of another machine's, whose claim about it may be false.
// Nothing of that cache is used any more, and the build begins again.
func (r *Run) blame(n *node, err error) (*node, error) {
	var about *store.LayerError
	if !errors.As(err, &about) {
		return n, err
	}
	r.Group.mu.Lock()
	images, runs := maps.Clone(r.images), slices.Clone(r.runs)
	r.Group.mu.Unlock()
	for in, img := range images {
		for i, l := range img.Manifest.Layers {
			if l.Digest == about.Blob && img.DiffIDs[i] == about.DiffID {
				return in, fmt.Errorf("image %s: layer %d of %d: %w", img.Ref, i+1, len(img.Manifest.Layers), err)
			}
		}
	}
	if !errors.Is(err, store.ErrFalse) {
		return n, err
	}
	for _, run := range runs {
		for _, f := range run.opt.Foreign {
			if f.Distrust(r.ctx, about.Blob, err) {
				run.tellForeign(f, about.Blob, err)
			}
		}
	}
	return n, fmt.Errorf("%w: %w", err, store.ErrDamaged)
}
