package store

import (
	"context"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

// TestManyLayersFewConnections: whoever looks at many layers at once opens no connection for each, which
// takes longer than the questions.
func TestManyLayersFewConnections(t *testing.T) {
	s, ctx := newStore(t), context.Background()
	var snap layer.Snapshot
	for range 200 {
		draft, err := s.NewLayer()
		must(t, err)
		id, err := draft.Commit(ctx)
		must(t, err)
		snap = append(snap, id)
	}
	for range 3 {
		_, err := s.Dirs(ctx, snap)
		must(t, err)
		_, err = s.Tree(ctx, snap, NeedContent)
		must(t, err)
	}
	if stats := s.db.Stats(); stats.MaxIdleClosed > 0 {
		t.Errorf("connections that were opened beyond the %d that are kept: got %d, want none", maxIdle, stats.MaxIdleClosed)
	}
}
