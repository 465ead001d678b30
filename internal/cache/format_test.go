package cache

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

func dgst(s string) digest.Digest { return digest.FromString(s) }

func key(s string) string { return dgst(s).Encoded() }

var then = time.Date(2026, 11, 23, 1, 2, 3, 456789012, time.UTC)

// configLayer is a layer of a config as an export writes it.
func configLayer(name string) cacheLayer {
	return cacheLayer{CacheLayer: cacheimporttypes.CacheLayer{Blob: dgst("blob " + name), ParentIndex: -1, Annotations: &cacheimporttypes.LayerAnnotations{
		MediaType: ocispec.MediaTypeImageLayerGzip, DiffID: dgst("diff " + name), Size: 7, CreatedAt: then,
	}}}
}

func heldLayer(name string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: dgst("blob " + name), Size: 7}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What an export says of results comes back: several outputs, one that is empty, times, lines.
func TestConfigRoundTrip(t *testing.T) {
	in := Record{Key: key("two outputs"), Place: "[b 1/2]", Result: store.Result{
		Created: then, Took: 5 * time.Second, Lines: []string{"operation exec", "command make"},
	}}
	planned := Record{Key: key("planned"), Place: "[b 2/2]", Result: store.Result{Planned: true, Created: then, Lines: []string{"operation file"}}}
	cfg := config{
		Layers:  []cacheLayer{configLayer("base"), configLayer("run"), configLayer("mount")},
		Records: []record{resultRecord(in, [][]int32{{0, 1}, {}, {2}}), resultRecord(planned, nil)},
	}
	memos := map[string]digest.Digest{key("m2"): dgst("c2"), key("m1"): dgst("c1")}
	cfg.Records = append(cfg.Records, memoRecords(memos)...)

	c, err := decodeConfig(encode(t, cfg), listedIn([]ocispec.Descriptor{heldLayer("run"), heldLayer("mount")}))
	if err != nil {
		t.Fatal(err)
	}
	l := func(name string, held bool) *Layer {
		return &Layer{DiffID: dgst("diff " + name), Blob: heldLayer(name), Created: then, Held: held}
	}
	want := &Found{
		Result:  store.Result{Created: then, Took: 5 * time.Second, Lines: in.Result.Lines},
		Outputs: [][]*Layer{{l("base", false), l("run", true)}, nil, {l("mount", true)}},
	}
	if got := c.results[in.Key]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got := c.results[planned.Key]; got == nil || !got.Result.Planned || got.Outputs != nil {
		t.Errorf("planned: got %+v", got)
	}
	if !reflect.DeepEqual(c.memos, memos) {
		t.Errorf("memos: got %v, want %v", c.memos, memos)
	}
	if got := c.lines["[b 1/2]"].lines; !reflect.DeepEqual(got, in.Result.Lines) {
		t.Errorf("lines: got %q", got)
	}
}

// To BuildKit a record is a key with the layers of its first output.
func TestConfigIsBuildKits(t *testing.T) {
	r := resultRecord(Record{Key: key("k"), Result: store.Result{Created: then}}, [][]int32{{0, 1}, {2}})
	var got cacheimporttypes.CacheConfig
	if err := json.Unmarshal(encode(t, config{Layers: []cacheLayer{configLayer("a")}, Records: []record{r}}), &got); err != nil {
		t.Fatal(err)
	}
	want := cacheimporttypes.CacheConfig{
		Layers: []cacheimporttypes.CacheLayer{configLayer("a").CacheLayer},
		Records: []cacheimporttypes.CacheRecord{{
			Digest:         dgst("k"),
			ChainedResults: []cacheimporttypes.ChainedResult{{LayerIndexes: []int{0, 1}, CreatedAt: then}},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// A record that is damaged is left out, and the others stay.
func TestDamagedRecords(t *testing.T) {
	good := `{"digest":"` + dgst("good").String() + `","slipway.v1":{"outputs":[[0]]}}`
	for name, bad := range map[string]string{
		"index":          `{"digest":"` + dgst("bad").String() + `","slipway.v1":{"outputs":[[1]]}}`,
		"negative index": `{"digest":"` + dgst("bad").String() + `","slipway.v1":{"outputs":[[-1]]}}`,
		"no outputs":     `{"digest":"` + dgst("bad").String() + `","slipway.v1":{}}`,
		"both":           `{"digest":"` + dgst("bad").String() + `","slipway.v1":{"planned":true,"outputs":[[0]]}}`,
		"key":            `{"digest":"sha256:../../etc","slipway.v1":{"outputs":[[0]]}}`,
		"algorithm":      `{"digest":"` + digest.SHA512.FromString("bad").String() + `","slipway.v1":{"outputs":[[0]]}}`,
		"content":        `{"digest":"` + dgst("bad").String() + `","slipway.v1":{"content":"x"}}`,
		"layer":          `{"digest":"` + dgst("bad").String() + `","slipway.v1":{"outputs":[[2]]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			layers := string(encode(t, configLayer("a")))
			doc := `{"layers":[` + layers + `,{"blob":"x"},{"blob":"` + dgst("unknown").String() + `"}],"records":[` + bad + `,` + good + `]}`
			c, err := decodeConfig([]byte(doc), listedIn([]ocispec.Descriptor{heldLayer("a")}))
			if err != nil {
				t.Fatal(err)
			}
			if len(c.results) != 1 || c.results[key("good")] == nil || len(c.memos) != 0 {
				t.Errorf("got results %v, memos %v, want the good one alone", c.results, c.memos)
			}
		})
	}
}

// What a cache says often takes no memory often, and no result has more layers than can be used.
func TestRepetitionsInConfig(t *testing.T) {
	zeros := "[" + strings.TrimSuffix(strings.Repeat("0,", 4000), ",") + "]"
	var doc strings.Builder
	doc.WriteString(`{"layers":[` + string(encode(t, configLayer("a"))) + `],"records":[`)
	for i := range 2000 {
		fmt.Fprintf(&doc, `{"digest":%q,"slipway.v1":{"outputs":[%s]}},`, dgst(fmt.Sprint(i)), zeros)
	}
	fmt.Fprintf(&doc, `{"digest":%q,"slipway.v1":{"outputs":[[%s0]]}}]}`, dgst("too many"), strings.Repeat("0,", 4096))
	data := []byte(doc.String())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c, err := decodeConfig(data, listedIn([]ocispec.Descriptor{heldLayer("a")}))
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err != nil || len(c.results) == 0 || c.results[key("too many")] != nil {
		t.Fatalf("%d results, %v", len(c.results), err)
	}
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 200<<20 {
		t.Errorf("%d MB of memory are held for a config of %d", held>>20, len(data)>>20)
	}
	runtime.KeepAlive(c)
}

// An inline cache names layers by their places in the image, and tells no times.
func TestInline(t *testing.T) {
	result := func(outputs ...layer.Snapshot) store.Result {
		return store.Result{Outputs: outputs, Created: then, Took: time.Second, Lines: []string{"command secretive"}}
	}
	set := Set{
		Records: []Record{
			{Key: key("first"), Place: "[1/2]", Final: true, Result: result(layer.Snapshot{"base", "a"})},
			{Key: key("linked"), Final: true, Result: result(layer.Snapshot{"b"})}, // as COPY --link gives
			{Key: key("elsewhere"), Final: true, Result: result(layer.Snapshot{"base", "x"})},
			{Key: key("other stage"), Result: result(layer.Snapshot{"base"})},
			{Key: key("planned"), Final: true, Result: store.Result{Planned: true}},
		},
		Memos: map[string]digest.Digest{key("m"): dgst("c")},
	}
	field, err := Inline(set, layer.Snapshot{"base", "a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	var data []byte // base64 in the config
	if err := json.Unmarshal(field, &data); err != nil {
		t.Fatal(err)
	}
	if s := string(data); strings.Contains(s, "secretive") || strings.Contains(s, "2026") || strings.Contains(s, "took") {
		t.Errorf("it tells what differs between builds: %s", s)
	}
	var records []record
	if err := json.Unmarshal(data, &records); err != nil {
		t.Fatal(err)
	}
	layers := []*Layer{{Created: then}, {Created: then.Add(time.Hour)}, {}}
	c := decode(records, layers)
	if len(c.results) != 2 || len(c.memos) != 1 {
		t.Fatalf("got results %v, memos %v", c.results, c.memos)
	}
	first := c.results[key("first")]
	if len(first.Outputs) != 1 || len(first.Outputs[0]) != 2 || !first.Result.Created.Equal(then.Add(time.Hour)) {
		t.Errorf("first: %+v", first)
	}
	if c.results[key("linked")] == nil {
		t.Error("a result that is not the beginning of the image is missing")
	}
	if none, err := Inline(Set{Memos: set.Memos}, layer.Snapshot{"base"}); none != nil || err != nil {
		t.Errorf("without results: %s, %v", none, err)
	}
}

// FuzzDecode: no config makes the import fail in another way than with an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"layers":[{"blob":"x"}],"records":[{"digest":"sha256:1","slipway.v1":{"outputs":[[0]]}}]}`))
	f.Add([]byte(`{"records":[{"slipway.v1":{"content":"x"}},{"layers":[{"layer":-1}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeConfig(data, listedIn([]ocispec.Descriptor{heldLayer("a")}))
		if err != nil {
			return
		}
		for k, r := range c.results {
			if dgst("").Algorithm().Size()*2 != len(k) || r.Result.Planned == (len(r.Outputs) > 0) {
				t.Errorf("%s: %+v", k, r)
			}
		}
		parseManifest(data) //nolint:errcheck // it must not panic
	})
}
