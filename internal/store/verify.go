package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// Option is a choice for an open store.
type Option func(*Store)

// VerifyForms makes the store write every layer that it packs from a plan as a directory too, pack
// that, and fail when the bytes are not the same. It is for tests: it proves that a layer does not
// depend on the form in which it was written first.
func VerifyForms() Option { return func(s *Store) { s.verifyForms = true } }

// verifyPlan makes the plain tar of a planned layer by way of a directory. It must have the digest
// of the one that was made directly.
func (s *Store) verifyPlan(ctx context.Context, p *plan, id layer.ID, want digest.Digest) error {
	dir, err := s.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := s.DirWriter(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(p.src.WriteTo(checkedSink{ctx, w}), w.Close()); err != nil {
		return fmt.Errorf("verifying layer %s: %w", id, err)
	}
	hash := digest.Canonical.Hash()
	tw := layer.NewTarWriter(hash)
	if err := errors.Join(layer.WriteTree(s.dirTree(dir), &ctxSink{ctx: ctx, Sink: tw}), tw.Close()); err != nil {
		return fmt.Errorf("verifying layer %s: %w", id, err)
	}
	if got := digest.NewDigest(digest.Canonical, hash); got != want {
		return fmt.Errorf("verifying layer %s: by way of a directory its tar is %s, want %s", id, got, want)
	}
	return nil
}
