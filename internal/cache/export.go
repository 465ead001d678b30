package cache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

const (
	// usualParallel is how many layers are written at the same time, maxParallel how many may be.
	usualParallel = 4
	maxParallel   = 64
)

// Tell is told what an export does, line by line: a line when it begins, and again when it is done.
type Tell func(line string, done bool)

// Name is what the export is called in a display, as BuildKit calls it.
func (t *To) Name() string { return t.location.title() }

// Place is what messages call the destination.
func (t *To) Place() string { return t.location.name() }

// Export writes what t asks for of a set. The descriptor is that of what has the cache's name, its manifest
// where it has one; it is zero when there was nothing to write. Layers that have no blob yet get one, in the store.
func (t *To) Export(ctx context.Context, s *store.Store, client *registry.Client, set Set, tell Tell) (ocispec.Descriptor, error) {
	x := &exporting{To: t, store: s, set: set, tell: tell}
	err := x.telling("preparing build cache for export", func() error { return x.prepare(ctx) })
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("preparing build cache for export: %w", err)
	}
	if len(x.config.Records) == 0 {
		tell("skipping cache export for empty result", true)
		return ocispec.Descriptor{}, nil
	}
	to, err := t.location.open(s, client)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("exporting cache: %w", err)
	}
	held, err := x.writeLayers(ctx, to)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return to.commit(ctx, x, held)
}

// ExportKeys writes the results of a set that are not there yet, each by itself, with the digests of its files. done is told of each record that
// is there, or has no place there. The first failure ends it.
func (t *To) ExportKeys(ctx context.Context, s *store.Store, client *registry.Client, set Set, tell Tell, done func(Record)) error {
	x := &exporting{To: t, store: s, set: set, tell: tell}
	to, err := t.location.open(s, client)
	if err != nil {
		return fmt.Errorf("exporting cache: %w", err)
	}
	keys, ok := to.(*byKey)
	if !ok {
		return fmt.Errorf("cache %s is none of mode=keys", t.Place())
	}
	return x.exportKeys(ctx, keys, done)
}

// exporting is an export under way.
type exporting struct {
	*To
	store *store.Store
	set   Set
	tell  Tell

	layers []blob // of all exported results, each once
	config config
}

// blob is a layer of an export in the form that is exported.
type blob struct {
	id      layer.ID
	desc    ocispec.Descriptor
	diffID  digest.Digest
	created time.Time
	base    bool // of a base image: named only
}

// named is a layer as the config has it.
func (b *blob) named() cacheLayer {
	l := cacheLayer{CacheLayer: cacheimporttypes.CacheLayer{
		Blob: b.desc.Digest, ParentIndex: -1,
		Annotations: &cacheimporttypes.LayerAnnotations{
			MediaType: b.desc.MediaType, DiffID: b.diffID, Size: b.desc.Size, CreatedAt: b.created,
		},
	}}
	if b.base {
		l.Own = &ownLayer{Base: true}
	}
	return l
}

// prepare makes the config, and the blobs of layers that have none.
func (x *exporting) prepare(ctx context.Context) error {
	index := map[layer.ID]int{}
	var ids []layer.ID
	for _, r := range x.set.Records {
		if !x.wanted(r) {
			continue
		}
		outputs := make([][]int32, len(r.Result.Outputs))
		for i, snap := range r.Result.Outputs {
			outputs[i] = []int32{}
			for _, id := range snap {
				n, ok := index[id]
				if !ok {
					n = len(ids)
					index[id], ids = n, append(ids, id)
				}
				outputs[i] = append(outputs[i], int32(n))
			}
		}
		x.config.Records = append(x.config.Records, resultRecord(r, outputs))
	}
	if len(x.config.Records) == 0 {
		return nil
	}
	x.config.Records = append(x.config.Records, memoRecords(x.set.Memos)...)
	x.layers = make([]blob, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, id := range ids {
		g.Go(func() (err error) {
			x.layers[i], err = x.blob(gctx, id)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, b := range x.layers {
		x.config.Layers = append(x.config.Layers, b.named())
	}
	return nil
}

// wanted reports whether a record is exported. What was only planned in stages that the result does
// not stand on costs no more to plan again than to fetch: that it was planned is all that is said.
func (x *exporting) wanted(r Record) bool { return x.Max || r.Final }

// blob describes a layer. The blob of one that is elsewhere is not fetched: the destination may have
// it.
func (x *exporting) blob(ctx context.Context, id layer.ID) (blob, error) {
	b := blob{id: id}
	info, err := x.store.Layer(ctx, id)
	if err != nil {
		return b, err
	}
	known, err := x.store.Blobs(ctx, id)
	if err != nil {
		return b, err
	}
	for _, k := range known {
		if desc, ok := x.set.Bases[k.Digest]; ok {
			b.desc, b.diffID, b.base = desc, info.DiffID, true
			b.desc.MediaType = ociTypes(desc.MediaType)
			return b, nil
		}
	}
	b.created = info.Created.UTC()
	absent := false
	if !x.Encoding.Force {
		if b.desc, b.diffID, absent, err = x.store.AbsentBlob(ctx, id); err != nil {
			return b, err
		}
	}
	if !absent {
		if b.desc, b.diffID, err = x.store.Blob(ctx, id, x.Encoding); err == nil && x.isBad(b.desc.Digest) {
			b.desc, b.diffID, err = x.otherBlob(ctx, id)
		}
		if err != nil {
			return b, err
		}
	}
	b.desc = ocispec.Descriptor{MediaType: ociTypes(b.desc.MediaType), Digest: b.desc.Digest, Size: b.desc.Size}
	if x.dockerTypes {
		b.desc.MediaType = dockerTypes(b.desc.MediaType)
	}
	b.desc.Annotations = map[string]string{
		annotationDiffID: b.diffID.String(), annotationCreated: b.created.Format(time.RFC3339Nano),
	}
	return b, nil
}

// isBad reports whether a blob is none that can be named: who has one with other bytes under this name takes no second one.
func (x *exporting) isBad(blob digest.Digest) bool { return x.set.Bad != nil && x.set.Bad(blob) }

// otherBlob is a blob of a layer with another name, in the place of one that is bad.
func (x *exporting) otherBlob(ctx context.Context, id layer.ID) (desc ocispec.Descriptor, diffID digest.Digest, err error) {
	for _, e := range []layer.Encoding{{Compression: layer.Zstd}, {Compression: layer.Gzip}, {Compression: layer.Gzip, Level: 9}, {}} {
		e.Force = true
		if desc, diffID, err = x.store.Blob(ctx, id, e); err != nil || !x.isBad(desc.Digest) {
			return desc, diffID, err
		}
	}
	return desc, diffID, fmt.Errorf("the cache has other bytes under each name of layer %s", diffID)
}

// marshal makes the config.
func (x *exporting) marshal() ([]byte, error) {
	data, err := json.Marshal(x.config)
	if err != nil {
		return nil, fmt.Errorf("writing cache config: %w", err)
	}
	return data, nil
}

// telling tells of what f does. A line that stays open hides the error of the step in a display.
func (x *exporting) telling(line string, f func() error) error {
	x.tell(line, false)
	defer x.tell(line, true)
	return f()
}

// writeLayers writes the layers that are not those of base images, and lists them in their order.
func (x *exporting) writeLayers(ctx context.Context, to destination) ([]ocispec.Descriptor, error) {
	held := []ocispec.Descriptor{}
	seen := map[digest.Digest]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(x.parallel, usualParallel))
	for _, b := range x.layers {
		if b.base || seen[b.desc.Digest] {
			continue
		}
		seen[b.desc.Digest] = true
		held = append(held, b.desc)
		g.Go(func() error {
			err := x.telling("writing layer "+b.desc.Digest.String(), func() error {
				return to.put(gctx, b.desc, func(ctx context.Context) (io.ReadCloser, error) { return x.read(ctx, b) })
			})
			if err != nil {
				return fmt.Errorf("error writing layer blob: %w", err)
			}
			return nil
		})
	}
	err := g.Wait()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return held, err
}

// read opens a layer's blob, fetched when it is not here.
func (x *exporting) read(ctx context.Context, b blob) (io.ReadCloser, error) {
	if !x.store.HasBlob(b.desc.Digest) {
		if _, _, err := x.store.Blob(ctx, b.id, x.Encoding); err != nil {
			return nil, err
		}
	}
	return x.store.OpenBlob(ctx, b.desc.Digest)
}

func bytesOpener(data []byte) opener {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// dockerNames are Docker's names of OCI's layer types. (For zstd there is none that Docker reads;
// BuildKit writes this one.)
var dockerNames = map[string]string{
	ocispec.MediaTypeImageLayer:     images.MediaTypeDockerSchema2Layer,
	ocispec.MediaTypeImageLayerGzip: images.MediaTypeDockerSchema2LayerGzip,
	ocispec.MediaTypeImageLayerZstd: images.MediaTypeDockerSchema2LayerZstd,
}

func dockerTypes(mediaType string) string {
	if t, ok := dockerNames[mediaType]; ok {
		return t
	}
	return mediaType
}

func ociTypes(mediaType string) string {
	for oci, docker := range dockerNames {
		if mediaType == docker {
			return oci
		}
	}
	return mediaType
}

// IgnoreFailure reports whether a failed export may be passed over: not when the build was ended.
func (t *To) IgnoreFailure(ctx context.Context, err error) bool {
	return err != nil && t.IgnoreError && ctx.Err() == nil && !errors.Is(err, context.Canceled)
}
