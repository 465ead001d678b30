package store

import (
	"context"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// A layer that is known from elsewhere is one per content and time: images tell the times of layers
// that are equal otherwise.
func TestBlobLayerOfKeepsTimes(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("blob"), Size: 4}
	diff := digest.FromString("diff")
	at := func(when time.Time) layer.ID {
		t.Helper()
		id, err := s.BlobLayerOf(ctx, diff, desc, when)
		must(t, err)
		return id
	}
	early, late := time.Unix(1000, 5), time.Unix(2000, 0)
	first, second := at(early), at(late)
	if first == second {
		t.Error("two times gave one layer")
	}
	if at(early) != first || at(late) != second {
		t.Error("a layer is not found again")
	}
	info, err := s.Layer(ctx, first)
	must(t, err)
	if !info.Created.Equal(early) {
		t.Errorf("created %v, want %v", info.Created, early)
	}
	if id := at(time.Time{}); id != first && id != second {
		t.Errorf("any time gave another layer, %s", id)
	}
}

// What is known of a layer that is not here is told without fetching it.
func TestAbsentBlob(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("elsewhere"), Size: 9}
	id, err := s.BlobLayer(ctx, digest.FromString("diff"), desc)
	must(t, err)
	defer s.SetFetch(id, func(context.Context) error {
		t.Error("it was fetched")
		return nil
	})()
	here, err := s.Here(ctx, layer.Snapshot{id})
	must(t, err)
	got, diff, found, err := s.AbsentBlob(ctx, id)
	must(t, err)
	if here || !found || got.Digest != desc.Digest || got.Size != 9 || diff != digest.FromString("diff") {
		t.Errorf("absent: here %v, found %v, %+v, %s", here, found, got, diff)
	}
	d, err := s.NewLayer()
	must(t, err)
	mine, err := d.Commit(ctx)
	must(t, err)
	here, err = s.Here(ctx, layer.Snapshot{mine})
	must(t, err)
	if _, _, found, err = s.AbsentBlob(ctx, mine); err != nil || found || !here {
		t.Errorf("a layer that is here: here %v, found %v, %v", here, found, err)
	}
	if ok, err := s.Here(ctx, layer.Snapshot{mine, "unknown"}); ok || err != nil {
		t.Errorf("an unknown layer: %v, %v", ok, err)
	}
}
