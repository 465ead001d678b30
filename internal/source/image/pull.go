package imagesource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/registry"
)

// Progress is told how many bytes of a layer are here. It is called from several goroutines
// at once, for each layer first with what is here and last, when it is complete, with total.
type Progress func(layer ocispec.Descriptor, current, total int64)

// Pull fetches the layers of img whose blobs the store lacks, four at a time in all pulls of
// the source. When one fails the others are cancelled; layers that are complete stay.
// progress may be nil. See [Source.PullLayer], which does one of them.
func (s *Source) Pull(ctx context.Context, img *Image, progress Progress) error {
	group, ctx := errgroup.WithContext(ctx)
	seen := map[digest.Digest]bool{}
	for i, layer := range img.Manifest.Layers {
		if !seen[layer.Digest] {
			seen[layer.Digest] = true
			group.Go(func() error { return s.PullLayer(ctx, img, i, progress) })
		}
	}
	return group.Wait()
}

// PullLayer fetches the blob of the i-th layer of img (0 is the base) unless the store has it.
// It is verified by digest and size before the store has it; broken connections are resumed.
// A layer that another call is fetching is waited for; its progress is told only at the end.
// progress may be nil.
//
// Errors are as those of [Source.Resolve], and the store's.
func (s *Source) PullLayer(ctx context.Context, img *Image, i int, progress Progress) error {
	named, err := registry.Parse(img.Ref)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(ocispec.Descriptor, int64, int64) {}
	}
	layer := img.Manifest.Layers[i]
	err = s.pullLayer(ctx, named, layer, progress)
	var known *registry.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known): // it names the layer and the image already
		return known
	}
	return fmt.Errorf("pulling layer %d of %d (%s) of image %q: %w", i+1, len(img.Manifest.Layers), layer.Digest, img.Ref, err)
}

// pullLayer brings one layer into the store, once per process however many ask.
func (s *Source) pullLayer(ctx context.Context, named reference.Named, layer ocispec.Descriptor, progress Progress) error {
	if s.store.HasBlob(layer.Digest) {
		progress(layer, layer.Size, layer.Size)
		return nil
	}
	// The repository is part of the key: another one may refuse the same layer.
	key := named.Name() + "@" + layer.Digest.String()
	_, err := s.pulls.Do(ctx, key, func(ctx context.Context) (struct{}, error) {
		if err := s.slots.Acquire(ctx, 1); err != nil {
			return struct{}{}, context.Cause(ctx)
		}
		defer s.slots.Release(1)
		if s.store.HasBlob(layer.Digest) { // another call was faster
			return struct{}{}, nil
		}
		return struct{}{}, s.fetchLayer(ctx, named, layer, progress)
	})
	if err == nil {
		progress(layer, layer.Size, layer.Size)
	}
	return err
}

func (s *Source) fetchLayer(ctx context.Context, named reference.Named, layer ocispec.Descriptor, progress Progress) error {
	progress(layer, 0, layer.Size)
	rc, err := s.reg.Fetch(ctx, named.String(), layer)
	if err != nil {
		return err
	}
	defer rc.Close()
	return s.store.WriteBlob(ctx, layer, &meter{r: rc, layer: layer, progress: progress, last: time.Now()})
}

// meterPeriod is the time between two reports of a layer.
const meterPeriod = 50 * time.Millisecond

// meter reports how far a layer is.
type meter struct {
	r        io.Reader
	layer    ocispec.Descriptor
	progress Progress
	n        int64
	last     time.Time
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if n > 0 && m.n < m.layer.Size && time.Since(m.last) >= meterPeriod {
		m.last = time.Now()
		m.progress(m.layer, m.n, m.layer.Size)
	}
	return n, err
}
