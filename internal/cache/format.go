package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

const (
	// annotationDiffID and annotationCreated are what BuildKit and containerd write at layers.
	annotationDiffID  = "containerd.io/uncompressed"
	annotationCreated = "buildkit/createdat"
)

// config is BuildKit's cache config ([cacheimporttypes.CacheConfig]) with what slipway adds to its
// records.
//
// To BuildKit a record is a cache key with the layers it gave: "chains" is the first output of a
// slipway result, each layer by its index in "layers". slipway itself reads the field that it
// added, which has what BuildKit's fields have no place for.
type config struct {
	Layers  []cacheLayer `json:"layers,omitempty"`
	Records []record     `json:"records,omitempty"`
}

type cacheLayer struct {
	cacheimporttypes.CacheLayer
	Own *ownLayer `json:"slipway.v1,omitempty"`
}

// ownLayer is what slipway adds to a layer.
type ownLayer struct {
	Base bool `json:"base,omitempty"` // it is a base image's, and named only
}

type record struct {
	cacheimporttypes.CacheRecord
	Own *own `json:"slipway.v1,omitempty"`
}

// own is what slipway adds to a record: a result, or with Content a memo.
type own struct {
	Outputs [][]int32     `json:"outputs,omitempty"` // indexes of layers, base first, per output
	Planned bool          `json:"planned,omitempty"`
	Created *time.Time    `json:"created,omitempty"`
	Took    time.Duration `json:"took,omitempty"`
	Place   string        `json:"place,omitempty"`
	Lines   []string      `json:"lines,omitempty"`
	Content digest.Digest `json:"content,omitempty"`
}

// keyDigest is a key as the digest of a record.
func keyDigest(key string) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, key)
}

// resultRecord makes a record of a result whose layers have the given indexes.
func resultRecord(r Record, outputs [][]int32) record {
	created := r.Result.Created.UTC()
	rec := record{Own: &own{
		Outputs: outputs, Planned: r.Result.Planned, Created: &created, Took: r.Result.Took,
		Place: r.Place, Lines: store.WithoutValues(r.Result.Lines...),
	}}
	rec.Digest = keyDigest(r.Key)
	if len(outputs) > 0 && len(outputs[0]) > 0 {
		rec.ChainedResults = []cacheimporttypes.ChainedResult{{LayerIndexes: ints(outputs[0]), CreatedAt: created}}
	}
	return rec
}

func ints(all []int32) []int {
	out := make([]int, len(all))
	for i, v := range all {
		out[i] = int(v)
	}
	return out
}

// memoRecords makes records of memos, in a fixed order.
func memoRecords(memos map[string]digest.Digest) []record {
	var all []record
	for key, content := range memos {
		rec := record{Own: &own{Content: content}}
		rec.Digest = keyDigest(key)
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return all
}

// contents is what an imported cache knows.
type contents struct {
	results map[string]*Found
	memos   map[string]digest.Digest
	lines   map[string]placed // by place
	foreign int               // records of others
	named   int               // layers of all outputs: records are small beside them
}

const (
	// maxStack is how many layers an output may have: more than can be stacked.
	maxStack = 4096
	// maxNamed is how many layers all outputs of a cache may name. It bounds the memory that they take.
	maxNamed = 1 << 22
)

type placed struct {
	lines   []string
	created time.Time
}

// errForeign says that a cache is well, but of no use.
var errForeign = errors.New("none of its records is slipway's: only what slipway exported has keys that slipway makes")

// decode reads records over layers. A record that is damaged is left out.
func decode(records []record, layers []*Layer) *contents {
	c := &contents{results: map[string]*Found{}, memos: map[string]digest.Digest{}, lines: map[string]placed{}}
	for _, rec := range records {
		if rec.Own == nil {
			c.foreign++
			continue
		}
		if rec.Digest.Validate() != nil || rec.Digest.Algorithm() != digest.SHA256 {
			continue
		}
		key := rec.Digest.Encoded()
		if rec.Own.Content != "" {
			if rec.Own.Content.Validate() == nil {
				c.memos[key] = rec.Own.Content
			}
			continue
		}
		c.add(key, rec.Own, layers)
	}
	return c
}

func (c *contents) add(key string, o *own, layers []*Layer) {
	f := &Found{Result: store.Result{Planned: o.Planned, Took: o.Took, Lines: o.Lines}}
	for _, indexes := range o.Outputs {
		if c.named += len(indexes); len(indexes) > maxStack || c.named > maxNamed {
			return
		}
		var out []*Layer
		for _, i := range indexes {
			if i < 0 || int(i) >= len(layers) || layers[i] == nil {
				return
			}
			out = append(out, layers[i])
		}
		f.Outputs = append(f.Outputs, out)
	}
	if o.Planned != (len(f.Outputs) == 0) {
		return
	}
	f.Result.Created = f.made(o)
	c.results[key] = f
	if old, ok := c.lines[o.Place]; o.Place != "" && len(o.Lines) > 0 && (!ok || old.created.Before(f.Result.Created)) {
		c.lines[o.Place] = placed{o.Lines, f.Result.Created}
	}
}

// names reports whether a result has a layer by this blob.
func (c *contents) names(blob digest.Digest) bool {
	for _, f := range c.results {
		for _, out := range f.Outputs {
			if slices.ContainsFunc(out, func(l *Layer) bool { return l.Blob.Digest == blob }) {
				return true
			}
		}
	}
	return false
}

// heldBy notes which repository has the layers that the cache holds.
func (c *contents) heldBy(repository string) {
	for _, f := range c.results {
		for _, out := range f.Outputs {
			for _, l := range out {
				if l.Held {
					l.Repository = repository
				}
			}
		}
	}
}

// made is when a result was made, which the records inside of an image do not tell: then it is as
// old as its newest layer.
func (f *Found) made(o *own) time.Time {
	if o.Created != nil {
		return *o.Created
	}
	var t time.Time
	for _, out := range f.Outputs {
		if n := len(out); n > 0 && out[n-1].Created.After(t) {
			t = out[n-1].Created
		}
	}
	if t.IsZero() {
		t = time.Now()
	}
	return t
}

// holding tells which layers of a config the cache holds, and how it describes them.
type holding func(l *cacheLayer) (ocispec.Descriptor, bool)

// listedIn is the holding of a cache whose manifest lists its layers.
func listedIn(layers []ocispec.Descriptor) holding {
	have := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range layers {
		have[d.Digest] = d
	}
	return func(l *cacheLayer) (ocispec.Descriptor, bool) {
		d, ok := have[l.Blob]
		return d, ok
	}
}

// unlisted is the holding of a cache that has no list: it holds what it does not say to be a base image's.
func unlisted(l *cacheLayer) (ocispec.Descriptor, bool) {
	if l.Own != nil && l.Own.Base || l.Annotations == nil {
		return ocispec.Descriptor{}, false
	}
	return ocispec.Descriptor{MediaType: l.Annotations.MediaType, Digest: l.Blob, Size: l.Annotations.Size}, true
}

// decodeConfig reads a cache config.
func decodeConfig(data []byte, held holding) (*contents, error) {
	var cfg config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return nil, fmt.Errorf("decoding cache config: %w", err)
	}
	layers := make([]*Layer, len(cfg.Layers))
	for i := range cfg.Layers {
		layers[i] = decodeLayer(&cfg.Layers[i], held)
	}
	return decode(cfg.Records, layers), nil
}

// decodeLayer returns nil for a layer of which too little is known.
func decodeLayer(l *cacheLayer, held holding) *Layer {
	out := &Layer{}
	if a := l.Annotations; a != nil {
		out.Blob = ocispec.Descriptor{MediaType: a.MediaType, Digest: l.Blob, Size: a.Size}
		out.DiffID, out.Created = a.DiffID, a.CreatedAt
	}
	if d, ok := held(l); ok {
		out.Held = true
		out.Blob = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
		if out.DiffID == "" {
			out.DiffID = digest.Digest(d.Annotations[annotationDiffID])
		}
	}
	if !out.valid() {
		return nil
	}
	return out
}

func (l *Layer) valid() bool {
	return l.Blob.Digest.Validate() == nil && l.DiffID.Validate() == nil && l.Blob.Size >= 0 && isLayer(l.Blob.MediaType)
}
