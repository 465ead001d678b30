package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/store"
)

// inline is a cache inside of the build's image: it is exported with that, by Inline.
type inline struct{}

func (inline) title() string { return "exporting inline cache" }
func (inline) name() string  { return "" }
func (inline) where() string { return "" }

func (inline) open(*store.Store, *registry.Client) (place, error) {
	return nil, errors.New("an inline cache is exported with its image")
}

// Inline makes the value of an image config's field "moby.buildkit.cache.v0": the records of the
// results whose layers are in the image, and the memos. A layer's index is its place in the image.
// There is nothing in it that differs between two builds of the same image: neither times nor what
// would only explain misses. It is nil when there is no such result.
func Inline(set Set, image layer.Snapshot) (json.RawMessage, error) {
	var records []record
	for _, r := range set.Records {
		if !r.Final || r.Result.Planned {
			continue
		}
		outputs := make([][]int32, len(r.Result.Outputs))
		all := true
		for i, snap := range r.Result.Outputs {
			for _, id := range snap {
				n := slices.Index(image, id)
				all = all && n >= 0
				outputs[i] = append(outputs[i], int32(n))
			}
		}
		if !all {
			continue
		}
		rec := resultRecord(r, outputs)
		rec.Own.Created, rec.Own.Took, rec.Own.Place, rec.Own.Lines = nil, 0, "", nil
		for i := range rec.ChainedResults {
			rec.ChainedResults[i].CreatedAt = time.Time{}
		}
		records = append(records, rec)
	}
	if len(records) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(append(records, memoRecords(set.Memos)...))
	if err != nil {
		return nil, fmt.Errorf("writing inline cache: %w", err)
	}
	return json.Marshal(data) // bytes are base64
}

// inlineImage is what is read of an image's config.
type inlineImage struct {
	RootFS struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
	Cache   []byte            `json:"moby.buildkit.cache.v0"`
	History []ocispec.History `json:"history"`
}

// errNoInline says that an image was built without an inline cache.
var errNoInline = errors.New("the image has no inline cache (it is built with --cache-to type=inline)")

// loadInline reads the cache inside of an image, or those inside of the images of an index that are
// for the wanted platforms.
func loadInline(ctx context.Context, from documents, wanted platforms.MatchComparer, m *manifest, raw []byte) (*contents, error) {
	if m.images == nil {
		return loadImage(ctx, from, raw)
	}
	var all *contents
	err := errPlatform
	for _, desc := range m.images {
		if desc.Platform != nil && !wanted.Match(*desc.Platform) {
			continue
		}
		err = errNoInline
		raw, err := read(ctx, from, desc, registry.MaxManifestSize)
		if err != nil {
			return nil, err
		}
		c, err := loadImage(ctx, from, raw)
		switch {
		case errors.Is(err, errNoInline):
		case err != nil:
			return nil, err
		case all == nil:
			all = c
		default:
			all.merge(c)
		}
	}
	if all == nil {
		return nil, err
	}
	return all, nil
}

// errPlatform says that an index has nothing for the build.
var errPlatform = errors.New("none of its images is for a platform of this build")

// merge adds what another part of the cache knows.
func (c *contents) merge(o *contents) {
	maps.Copy(c.results, o.results)
	maps.Copy(c.memos, o.memos)
	for place, p := range o.lines {
		if old, ok := c.lines[place]; !ok || old.created.Before(p.created) {
			c.lines[place] = p
		}
	}
	c.foreign += o.foreign
}

// loadImage reads the cache inside of one image.
func loadImage(ctx context.Context, from documents, raw []byte) (*contents, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("decoding manifest: %w", err)
	}
	data, err := read(ctx, from, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	var img inlineImage
	if err := json.Unmarshal(data, &img); err != nil {
		return nil, fmt.Errorf("decoding image config: %w", err)
	}
	if len(img.Cache) == 0 {
		return nil, errNoInline
	}
	if len(img.RootFS.DiffIDs) != len(m.Layers) {
		return nil, errors.New("invalid image with mismatching manifest and config")
	}
	var records []record
	if err := json.Unmarshal(img.Cache, &records); err != nil {
		return nil, fmt.Errorf("decoding inline cache: %w", err)
	}
	return decode(records, img.layers(m.Layers)), nil
}

// layers describes the layers of the image, with the times that its history tells.
func (img *inlineImage) layers(descs []ocispec.Descriptor) []*Layer {
	var times []time.Time
	for _, h := range img.History {
		if h.EmptyLayer {
			continue
		}
		t := time.Time{}
		if h.Created != nil {
			t = *h.Created
		}
		times = append(times, t)
	}
	layers := make([]*Layer, len(descs))
	for i, d := range descs {
		l := &Layer{
			DiffID: img.RootFS.DiffIDs[i], Held: true,
			Blob: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
		}
		if i < len(times) {
			l.Created = times[i]
		}
		if l.valid() {
			layers[i] = l
		}
	}
	return layers
}
