package imagesource

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func asJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// TestHostileManifests changes a good image in one place. Nothing of it may be used.
func TestHostileManifests(t *testing.T) {
	type parts struct {
		mediaType string
		manifest  ocispec.Manifest
		config    ocispec.Image
		raw       func([]byte) []byte // of the manifest
	}
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	tests := []struct {
		name   string
		change func(*parts)
		kind   error
		want   string
	}{
		{"nothing wrong", func(*parts) {}, nil, ""},
		{"content type json", func(p *parts) { p.mediaType = "application/json" }, nil, ""},
		{"no media type inside", func(p *parts) { p.manifest.MediaType = "" }, nil, ""},
		{"not json", func(p *parts) { p.raw = func([]byte) []byte { return []byte("<html>") } }, errdefs.ErrDataLoss, "no valid JSON"},
		{"json array", func(p *parts) { p.raw = func([]byte) []byte { return []byte("[]") } }, errdefs.ErrDataLoss, "no valid JSON"},
		{"nothing in it", func(p *parts) { p.raw = func([]byte) []byte { return []byte("{}") }; p.mediaType = "application/json" }, errdefs.ErrDataLoss, "neither an image manifest nor an index"},
		{"two documents in one", func(p *parts) {
			p.raw = func(b []byte) []byte { return []byte(strings.Replace(string(b), "{", `{"manifests":[],`, 1)) }
		}, errdefs.ErrDataLoss, "both an index and an image manifest"},
		{"manifest called index", func(p *parts) { p.manifest.MediaType = ocispec.MediaTypeImageIndex }, errdefs.ErrDataLoss, "fields of another type"},
		{"artifact", func(p *parts) { p.manifest.MediaType = "application/vnd.acme.thing+json" }, errdefs.ErrNotImplemented, "not a container image"},
		{"schema 1", func(p *parts) {
			p.mediaType = "application/vnd.docker.distribution.manifest.v1+prettyjws"
			p.raw = func([]byte) []byte { return []byte(`{"schemaVersion":1,"fsLayers":[]}`) }
		}, errdefs.ErrNotImplemented, "schema 1"},
		{"schema 1 in disguise", func(p *parts) {
			p.raw = func([]byte) []byte { return []byte(`{"schemaVersion":1,"fsLayers":[]}`) }
		}, errdefs.ErrNotImplemented, "schema 1"},
		{"helm chart", func(p *parts) { p.manifest.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }, errdefs.ErrNotImplemented, "its config has type"},
		{"config digest", func(p *parts) { p.manifest.Config.Digest = "sha256:../../etc/passwd" }, errdefs.ErrDataLoss, "config with digest"},
		{"config size negative", func(p *parts) { p.manifest.Config.Size = -5 }, errdefs.ErrDataLoss, "size -5"},
		{"config giant", func(p *parts) { p.manifest.Config.Size = 1 << 40 }, errdefs.ErrOutOfRange, "more than the limit"},
		{"config shorter than said", func(p *parts) { p.manifest.Config.Size++ }, errdefs.ErrDataLoss, "wrong size"},
		{"config longer than said", func(p *parts) { p.manifest.Config.Size-- }, errdefs.ErrDataLoss, "wrong size"},
		{"config missing", func(p *parts) { p.manifest.Config.Digest = sum; p.manifest.Config.Size = 7 }, errdefs.ErrNotFound, sum},
		{"layer digest", func(p *parts) { p.manifest.Layers[0].Digest = "sha256:zz" }, errdefs.ErrDataLoss, "layer 1 with digest"},
		{"layer digest algorithm", func(p *parts) { p.manifest.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }, errdefs.ErrDataLoss, "layer 1 with digest"},
		{"layer size", func(p *parts) { p.manifest.Layers[1].Size = -1 }, errdefs.ErrDataLoss, "layer 2 with digest"},
		{"layer type", func(p *parts) { p.manifest.Layers[1].MediaType = "application/vnd.acme.zip" }, errdefs.ErrNotImplemented, "layer 2 has type"},
		{"layer not to be redistributed", func(p *parts) {
			p.manifest.Layers[1].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, nil, ""},
		{"the same of OCI", func(p *parts) {
			p.manifest.Layers[1].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}, nil, ""},
		{"too many layers", func(p *parts) {
			for len(p.manifest.Layers) <= maxLayers {
				p.manifest.Layers = append(p.manifest.Layers, p.manifest.Layers[0])
				p.config.RootFS.DiffIDs = append(p.config.RootFS.DiffIDs, p.config.RootFS.DiffIDs[0])
			}
		}, errdefs.ErrOutOfRange, "1001 layers"},
		{"layer encrypted", func(p *parts) { p.manifest.Layers[1].MediaType += "+encrypted" }, errdefs.ErrNotImplemented, "layer 2 has type"},
		{"too few diff ids", func(p *parts) { p.config.RootFS.DiffIDs = p.config.RootFS.DiffIDs[:1] }, errdefs.ErrDataLoss, "1 diff_ids for 2 layers"},
		{"too many diff ids", func(p *parts) { p.config.RootFS.DiffIDs = append(p.config.RootFS.DiffIDs, sum) }, errdefs.ErrDataLoss, "3 diff_ids for 2 layers"},
		{"bad diff id", func(p *parts) { p.config.RootFS.DiffIDs[1] = "nothing" }, errdefs.ErrDataLoss, "invalid diff_id"},
		{"rootfs type", func(p *parts) { p.config.RootFS.Type = "windows" }, errdefs.ErrDataLoss, "rootfs type"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := registrytest.Start(t)
			good := r.PushImage("app", simple("a", "b"))
			p := parts{mediaType: ocispec.MediaTypeImageManifest, manifest: good.Manifest}
			if err := json.Unmarshal(good.Config, &p.config); err != nil {
				t.Fatal(err)
			}
			p.manifest.Config = r.PushBlob("app", ocispec.MediaTypeImageConfig, asJSON(p.config))
			before := p.manifest.Config.Digest
			tt.change(&p)
			if raw := asJSON(p.config); digest.FromBytes(raw) != before {
				p.manifest.Config = r.PushBlob("app", ocispec.MediaTypeImageConfig, raw)
			}
			raw := asJSON(p.manifest)
			if p.raw != nil {
				raw = p.raw(raw)
			}
			r.PushManifest("app", "v1", p.mediaType, raw)
			s, store := newSource(t)
			_, err := s.Resolve(t.Context(), r.Host+"/app:v1", amd64, ResolveDefault)
			if tt.kind == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			checkError(t, err, tt.kind, tt.want, "app:v1")
			if len(store.refs) != 0 {
				t.Errorf("the image is remembered: %v", store.refs)
			}
		})
	}
}

// TestHostileRegistry has the registry serve something else than what it said.
func TestHostileRegistry(t *testing.T) {
	tests := []struct {
		name  string
		serve func(w http.ResponseWriter, req *http.Request, next http.Handler)
		kind  error
		want  string
	}{
		{"other manifest", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/") {
				req.URL.Path = "/v2/app/manifests/other"
			}
			next.ServeHTTP(w, req)
		}, errdefs.ErrDataLoss, "has other content"},
		{"other config", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				w.Header().Set("Content-Length", "250")
				w.Write([]byte(strings.Repeat("x", 250)))
				return
			}
			next.ServeHTTP(w, req)
		}, errdefs.ErrDataLoss, ""},
		{"giant manifest", func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("1", 64))
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", fmt.Sprint(registry.MaxManifestSize+1))
		}, errdefs.ErrOutOfRange, "larger than the limit"},
		{"bad digest header", func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			w.Header().Set("Docker-Content-Digest", "sha256:../x")
			w.Header().Set("Content-Length", "10")
		}, errdefs.ErrUnknown, "digest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := registrytest.Start(t)
			r.PushImage("app:v1", simple("a"))
			r.PushImage("app:other", simple("b"))
			r.Use(tt.serve)
			s, store := newSource(t)
			_, err := s.Resolve(t.Context(), r.Host+"/app:v1", amd64, ResolveDefault)
			checkError(t, err, tt.kind, tt.want, r.Host+"/app:v1")
			if len(store.refs) != 0 {
				t.Errorf("the image is remembered: %v", store.refs)
			}
			t.Log(err)
		})
	}
}

func TestHostileIndexes(t *testing.T) {
	r := registrytest.Start(t)
	img := r.PushImage("app", simple("a")).Desc
	index := func(tag string, m ...ocispec.Descriptor) ocispec.Descriptor {
		x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: m}
		x.SchemaVersion = 2
		return r.PushManifest("app", tag, x.MediaType, asJSON(x))
	}
	deep := img
	for i := range 7 {
		deep = index(fmt.Sprintf("deep%d", i), deep)
		deep.Platform = &amd64
	}
	// Each entry of each index has to be looked into: 8 of 8.
	wide := img
	for i := range 2 {
		var entries []ocispec.Descriptor
		for j := range 8 {
			e := r.PushManifest("app", "", ocispec.MediaTypeImageIndex, asJSON(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex,
				Annotations: map[string]string{"n": fmt.Sprint(i, j)}, Manifests: []ocispec.Descriptor{wide}}))
			if i == 0 {
				e = r.PushManifest("app", "", ocispec.MediaTypeImageIndex, asJSON(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex,
					Annotations: map[string]string{"n": fmt.Sprint(i, j)}, Manifests: []ocispec.Descriptor{}}))
			}
			entries = append(entries, e)
		}
		wide = index(fmt.Sprint("wide", i), entries...)
	}
	bad := img
	bad.Size = -1
	index("bad", bad)
	index("empty")
	escape := img
	escape.Platform = &ocispec.Platform{OS: "\x1b[2J", Architecture: "\x07"}
	index("escape", escape)
	lying := r.PushBlob("app", ocispec.MediaTypeImageManifest, []byte("not there"))
	lying.Platform, lying.MediaType = &amd64, "application/vnd.acme"
	index("lying", lying)
	for tag, want := range map[string]struct {
		kind error
		text string
	}{
		"deep6":  {errdefs.ErrOutOfRange, "nested"},
		"deep2":  {nil, ""},
		"wide1":  {errdefs.ErrOutOfRange, "more than 32 manifests"},
		"bad":    {errdefs.ErrDataLoss, "and size -1"},
		"empty":  {errdefs.ErrNotFound, "none at all"},
		"escape": {errdefs.ErrNotFound, "is for [2j/"},
		"lying":  {errdefs.ErrNotFound, lying.Digest.String()},
	} {
		s, _ := newSource(t)
		_, err := s.Resolve(t.Context(), r.Host+"/app:"+tag, amd64, ResolveDefault)
		if want.kind == nil {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		checkError(t, err, want.kind, want.text)
	}
}

// FuzzManifest reads arbitrary manifests. What is accepted must be consistent.
func FuzzManifest(f *testing.F) {
	config := asJSON(ocispec.Image{Platform: amd64, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("a")}}})
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("b"), Size: 5}}}
	m.SchemaVersion = 2
	f.Add(asJSON(m))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"x"},{"platform":{"os":"linux"}}]}`))
	f.Add([]byte(`{"schemaVersion":2,"layers":null,"config":{}}`))
	m.Layers = nil // the config tells of one
	f.Add(asJSON(m))
	reg := registry.New(registry.Options{DockerConfigDir: f.TempDir()})
	f.Fuzz(func(t *testing.T, raw []byte) {
		store := newMemStore()
		dgst := digest.FromBytes(raw)
		store.blobs[dgst], store.blobs[m.Config.Digest] = raw, config
		img, err := New(store, reg).Resolve(t.Context(), "x@"+dgst.String(), amd64, ResolveLocal)
		if (img == nil) == (err == nil) {
			t.Fatalf("got %v and %v", img, err)
		}
		if err == nil && (img.Digest != dgst || len(img.DiffIDs) != len(img.Manifest.Layers) || len(img.Config) == 0) {
			t.Fatalf("accepted %+v", img)
		}
	})
}
