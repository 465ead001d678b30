package export

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/store"
)

func newClient(t testing.TB) *registry.Client {
	t.Helper()
	return registry.New(registry.Options{DockerConfigDir: t.TempDir()})
}

// plainImage is an image of the store: its layers are not compressed.
func plainImage(t testing.TB, s *store.Store) ocispec.Descriptor {
	t.Helper()
	return assembled(t, s, []Source{source(t, s)}, Options{}).Manifest
}

func compressed(t testing.TB, s *store.Store, desc ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	out, err := Pushable(t.Context(), s, desc, layer.Encoding{Compression: layer.Gzip})
	must(t, err)
	return out
}

// events collects what became of each digest.
type events struct {
	mu   sync.Mutex
	last map[digest.Digest]PushEvent
}

func (e *events) add(v PushEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == nil {
		e.last = map[digest.Digest]PushEvent{}
	}
	e.last[v.Desc.Digest] = v
}

func (e *events) count(state PushState) int {
	n := 0
	for _, v := range e.last {
		if v.State == state {
			n++
		}
	}
	return n
}

// pulled is an image as go-containerregistry pulls it, with everything checked.
func pulled(t testing.TB, ref string) *remote.Descriptor {
	t.Helper()
	r, err := name.ParseReference(ref)
	must(t, err)
	desc, err := remote.Get(r)
	must(t, err)
	if desc.MediaType.IsIndex() {
		index, err := desc.ImageIndex()
		must(t, err)
		must(t, validate.Index(index))
		return desc
	}
	img, err := desc.Image()
	must(t, err)
	must(t, validate.Image(img))
	return desc
}

func TestPush(t *testing.T) {
	r := registrytest.Start(t)
	s := newStore(t)
	plain := plainImage(t, s)
	desc := compressed(t, s, plain)
	if desc.Digest == plain.Digest || desc.Platform == nil {
		t.Fatalf("an image of plain layers is pushed as %+v", desc)
	}
	if again := compressed(t, s, plain); again.Digest != desc.Digest {
		t.Errorf("compressed again it is %s, not %s", again.Digest, desc.Digest)
	}
	var e events
	names := []string{r.Host + "/team/app:v1", r.Host + "/team/app:v2", r.Host + "/other"}
	must(t, Push(t.Context(), s, newClient(t), desc, names, PushOptions{Progress: e.add}))
	for _, n := range []string{names[0], names[1], names[2] + ":latest"} {
		if got := pulled(t, n); got.Digest.String() != desc.Digest.String() {
			t.Errorf("%s is %s, want %s", n, got.Digest, desc.Digest)
		}
	}
	if n := e.count(PushWaiting) + e.count(PushSending); n > 0 {
		t.Errorf("%d parts have no end: %+v", n, e.last)
	}
	var m ocispec.Manifest
	raw, err := s.ReadBlob(t.Context(), desc.Digest)
	must(t, err)
	must(t, json.Unmarshal(raw, &m))
	for _, l := range m.Layers {
		if l.MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Errorf("a layer of type %s", l.MediaType)
		}
		if got, err := s.Sources(t.Context(), l.Digest); err != nil || !slices.Equal(got, []string{r.Host + "/other", r.Host + "/team/app"}) {
			t.Errorf("sources of a pushed layer: %v, %v", got, err)
		}
	}

	e.last = nil
	must(t, Push(t.Context(), s, newClient(t), desc, names, PushOptions{Progress: e.add}))
	if e.count(PushExisted) != len(e.last) {
		t.Errorf("pushed again: %+v", e.last)
	}
	if err := Push(t.Context(), s, newClient(t), desc, names[:1], PushOptions{ByDigest: true}); err == nil || !strings.Contains(err.Error(), "can't push tagged ref") {
		t.Errorf("a tag by digest: %v", err)
	}
	must(t, Push(t.Context(), s, newClient(t), desc, []string{r.Host + "/bydigest"}, PushOptions{ByDigest: true}))
	pulled(t, r.Host+"/bydigest@"+desc.Digest.String())
	if _, err := newClient(t).Resolve(t.Context(), r.Host+"/bydigest:latest"); err == nil {
		t.Error("pushed by digest it has a tag")
	}
}

// Compressed layers stay as they are, and an image of nothing else keeps its digest.
// A layer that may not be redistributed is left where it is, if it says where that is.
func TestPushForeign(t *testing.T) {
	for _, urls := range [][]string{nil, {"https://example.com/layer"}} {
		r := registrytest.Start(t)
		s := newStore(t)
		desc := compressed(t, s, plainImage(t, s))
		raw, err := s.ReadBlob(t.Context(), desc.Digest)
		must(t, err)
		var m ocispec.Manifest
		must(t, json.Unmarshal(raw, &m))
		m.Layers[0].MediaType, m.Layers[0].URLs = images.MediaTypeDockerSchema2LayerForeignGzip, urls
		raw, err = json.Marshal(m)
		must(t, err)
		out, err := s.PutBlob(t.Context(), m.MediaType, raw)
		must(t, err)
		r.PushBlob("app", "application/octet-stream", []byte("the repository is there"))
		r.Requests()
		must(t, Push(t.Context(), s, newClient(t), out, []string{r.Host + "/app:v1"}, PushOptions{}))
		there := slices.Contains(r.Requests(), "HEAD /v2/app/blobs/"+m.Layers[0].Digest.String())
		if there != (urls == nil) {
			t.Errorf("with the addresses %v it was pushed: %t", urls, there)
		}
	}
}

func TestPushableKeeps(t *testing.T) {
	s := newStore(t)
	for _, c := range []layer.Compression{layer.Gzip, layer.Zstd} {
		img := assembled(t, s, []Source{source(t, s)}, Options{Encoding: layer.Encoding{Compression: c}})
		if got := compressed(t, s, img.Manifest); got.Digest != img.Manifest.Digest {
			t.Errorf("%s: the digest changes from %s to %s", c, img.Manifest.Digest, got.Digest)
		}
	}
}

// An index is pushed with all its images; attestations name the images as they are pushed.
func TestPushIndex(t *testing.T) {
	r := registrytest.Start(t)
	s := newStore(t)
	put := func(mediaType string, v any) ocispec.Descriptor {
		raw, err := json.Marshal(v)
		must(t, err)
		desc, err := s.PutBlob(t.Context(), mediaType, raw)
		must(t, err)
		return desc
	}
	img := plainImage(t, s)
	statement := put("application/vnd.in-toto+json", map[string]any{"subject": []any{map[string]any{"digest": map[string]string{"sha256": img.Digest.Encoded()}}}})
	config := put(ocispec.MediaTypeImageConfig, map[string]any{"architecture": "unknown", "os": "unknown", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{statement.Digest.String()}}})
	about := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{statement}})
	about.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	about.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", attestationSubject: img.Digest.String()}
	index := put(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{img, about}})

	out := compressed(t, s, index)
	must(t, Push(t.Context(), s, newClient(t), out, []string{r.Host + "/app:v1"}, PushOptions{}))
	got := pulled(t, r.Host+"/app:v1@"+out.Digest.String())
	var pushed ocispec.Index
	must(t, json.Unmarshal(got.Manifest, &pushed))
	subject := pushed.Manifests[0].Digest
	if subject == img.Digest || subject != compressed(t, s, img).Digest {
		t.Errorf("the image is pushed as %s", subject)
	}
	if a := pushed.Manifests[1]; a.Annotations[attestationSubject] != subject.String() || a.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
		t.Errorf("the attestation is about %v, want %s", a.Annotations, subject)
	}
	raw, err := s.ReadBlob(t.Context(), pushed.Manifests[1].Digest)
	must(t, err)
	var m ocispec.Manifest
	must(t, json.Unmarshal(raw, &m))
	text, err := s.ReadBlob(t.Context(), m.Layers[0].Digest)
	must(t, err)
	if !strings.Contains(string(text), subject.Encoded()) {
		t.Errorf("the statement says %s", text)
	}
}

// A blob that is not here is mounted where its registry has it, else fetched from where it is.
func TestPushWhatIsNotHere(t *testing.T) {
	r, other := registrytest.Start(t), registrytest.Start(t)
	s := newStore(t)
	base := r.PushImage("base:v1", registrytest.Image{Layers: []registrytest.Layer{{"f": "base"}}})
	manifest, err := newClient(t).Fetch(t.Context(), r.Host+"/base:v1", base.Desc)
	must(t, err)
	must(t, s.WriteBlob(t.Context(), base.Desc, manifest))
	must(t, manifest.Close())

	push := func(name string) (*events, error) {
		e := &events{}
		return e, Push(t.Context(), s, newClient(t), base.Desc, []string{name}, PushOptions{Progress: e.add})
	}
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Query().Get("from") == "base" { // go-containerregistry has one place for all blobs
			w.WriteHeader(http.StatusCreated)
			return
		}
		if strings.HasPrefix(req.URL.Path, "/v2/app/blobs/sha256") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, req)
	})
	if _, err := push(r.Host + "/app:v1"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("blobs that nobody has: %v", err)
	}
	must(t, s.AddSources(t.Context(), r.Host+"/base", base.Manifest.Config.Digest, base.Manifest.Layers[0].Digest))
	e, err := push(r.Host + "/app:v1")
	must(t, err)
	if e.count(PushMounted) != 2 || s.HasBlob(base.Manifest.Layers[0].Digest) {
		t.Errorf("in the same registry: %+v", e.last)
	}
	r.Use(nil)
	_, err = push(other.Host + "/app:v1")
	must(t, err)
	if got := pulled(t, other.Host+"/app:v1"); got.Digest.String() != base.Desc.Digest.String() {
		t.Errorf("in another registry it is %s", got.Digest)
	}
}
