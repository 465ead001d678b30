package cache

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// names has manifests by their names.
type names struct {
	named
	all   map[string][]byte
	asked []string
	err   error
}

func (n *names) find(_ context.Context, name string) ([]byte, error) {
	n.asked = append(n.asked, name)
	if n.err != nil {
		return nil, n.err
	}
	return n.all[name], nil
}

// entryOf is a manifest with results and digests of those keys, all on the same layer.
func entryOf(t *testing.T, results, memos []string) []byte {
	t.Helper()
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("blob"), Size: 4, Annotations: map[string]string{annotationDiffID: digest.FromString("diff").String()}}
	cfg := config{Layers: []cacheLayer{{CacheLayer: cacheimporttypes.CacheLayer{Blob: blob.Digest, ParentIndex: -1}}}}
	for _, key := range results {
		rec := record{Own: &own{Outputs: [][]int32{{0}}}}
		rec.Digest = keyDigest(key)
		cfg.Records = append(cfg.Records, rec)
	}
	for _, key := range memos {
		cfg.Records = append(cfg.Records, memoRecords(map[string]digest.Digest{key: digest.FromString(key)})...)
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	desc := describe(cacheimporttypes.CacheConfigMediaTypeV0, data)
	desc.Data = data
	raw, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: desc, Layers: []ocispec.Descriptor{blob}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func keyOf(c string) string { return strings.Repeat(c, 64) }

// TestPutOnce: a repository is asked for a blob once in a build, whatever number of results has it.
func TestPutOnce(t *testing.T) {
	reg, s, client := registrytest.Start(t), openStore(t), registry.New(registry.Options{})
	at, err := asKeys(&inRegistry{ref: reg.Host + "/team/cache:latest"})
	must(t, err)
	blob := describe(ocispec.MediaTypeImageLayer, []byte("layer"))
	for i := range 3 {
		to, err := at.open(s, client)
		must(t, err)
		must(t, to.(*byKey).put(t.Context(), blob, bytesOpener([]byte("layer"))))
		if asked := reg.Requests(); (len(asked) > 0) != (i == 0) {
			t.Errorf("for the %dth time: %q", i+1, asked)
		}
	}
}

// An entry tells of the key that it was asked for, and of no other one; each is asked for once.
func TestEntryOfAnother(t *testing.T) {
	at := &names{all: map[string][]byte{
		resultPrefix + keyOf("a"): entryOf(t, []string{keyOf("a"), keyOf("b")}, []string{keyOf("c")}),
		resultPrefix + keyOf("d"): entryOf(t, []string{keyOf("b")}, nil),
		resultPrefix + keyOf("e"): []byte("no"),
		resultPrefix + keyOf("f"): entryOf(t, nil, []string{keyOf("c")}),
	}}
	at.all[resultPrefix+digest.FromString("").Encoded()] = nil
	var many []string
	for n := range 2*maxMemos + 1 {
		many = append(many, keyNumber(n))
	}
	at.all[resultPrefix+keyOf("0")] = entryOf(t, []string{keyOf("0")}, many)
	at.all[resultPrefix+keyOf("1")] = entryOf(t, []string{keyOf("1")}, many[1:])
	i := &Import{from: &byKey{named: at}, loaded: make(chan struct{})}
	var failed []error
	if err := i.Load(t.Context(), func(string) {}, func(err error) { failed = append(failed, err) }); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"0": false, "1": true} {
		if _, ok := i.Result(t.Context(), keyOf(key)); ok != want {
			t.Errorf("an entry with many digests, %s: %v", key, ok)
		}
	}
	at.asked = nil
	for range 2 {
		for key, want := range map[string]bool{"a": true, "b": false, "d": false, "e": false} {
			if f, ok := i.Result(t.Context(), keyOf(key)); ok != want || ok && len(f.Outputs) != 1 {
				t.Errorf("the result of %s: %v", key, ok)
			}
		}
		for of, want := range map[string]bool{"a": true, "d": false, "f": true} {
			if d, ok := i.Memo(t.Context(), keyOf(of), keyOf("c")); ok != want || ok && d != digest.FromString(keyOf("c")) {
				t.Errorf("a digest of files of %s: %s, %v", of, d, ok)
			}
		}
	}
	if len(at.asked) != 5 {
		t.Errorf("it was asked for %q", at.asked)
	}
	i.Forget(keyOf("a"), keyOf("c"))
	if _, ok := i.Memo(t.Context(), keyOf("a"), keyOf("c")); ok {
		t.Error("a digest that was forgotten")
	}
	at.err = context.DeadlineExceeded
	for _, key := range []string{"8", "9"} {
		if _, ok := i.Result(t.Context(), keyOf(key)); ok {
			t.Error("a result of nobody")
		}
	}
	if _, ok := i.Result(t.Context(), keyOf("a")); ok || len(failed) != 1 || len(at.asked) != 6 {
		t.Errorf("after a failure: %v, told %v, asked for %q", ok, failed, at.asked)
	}
}
