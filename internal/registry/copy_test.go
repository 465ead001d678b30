package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// answer makes a registry answer GET and HEAD of paths that contain a text with other content.
func answer(containing, mediaType string, body []byte) registrytest.Middleware {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.Contains(r.URL.Path, containing) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	}
}

func TestManifest(t *testing.T) {
	r := registrytest.Start(t)
	c := newClient(t)
	for _, docker := range []bool{false, true} {
		index, images := r.PushIndex("team/app:v1", registrytest.Image{Docker: docker})
		desc, raw, err := c.Manifest(t.Context(), r.Host+"/team/app:v1")
		if err != nil || desc.Digest != index.Digest || desc.MediaType != index.MediaType || digest.FromBytes(raw) != index.Digest {
			t.Errorf("the index: %+v, %v, want %+v", desc, err, index)
		}
		desc, _, err = c.Manifest(t.Context(), r.Host+"/team/app@"+images[0].Desc.Digest.String())
		if err != nil || desc.MediaType != images[0].Desc.MediaType {
			t.Errorf("the manifest: %+v, %v, want %+v", desc, err, images[0].Desc)
		}
	}
	// What a registry calls it is no matter.
	img := r.PushImage("team/plain", registrytest.Image{})
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, req)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	})
	if desc, _, err := c.Manifest(t.Context(), r.Host+"/team/plain"); err != nil || desc.MediaType != img.Desc.MediaType {
		t.Errorf("as text: %+v, %v, want %+v", desc, err, img.Desc)
	}
}

// TestManifestOfAnother: what comes is not what was said before, or what was asked for.
func TestManifestOfAnother(t *testing.T) {
	r := registrytest.Start(t)
	c := newClient(t)
	img := r.PushImage("team/app:v1", registrytest.Image{})
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", img.Desc.MediaType)
			w.Write(bytes.Replace(asJSON(t, img.Manifest), []byte("config.v1"), []byte("config.v2"), 1))
			return
		}
		next.ServeHTTP(w, req)
	})
	for _, ref := range []string{"/team/app:v1", "/team/app@" + img.Desc.Digest.String()} {
		if _, _, err := c.Manifest(t.Context(), r.Host+ref); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %v, want the error of other content", ref, err)
		}
	}
}

func TestDocumentType(t *testing.T) {
	const docker, list, oci, index = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	for _, tt := range []struct{ said, raw, want string }{
		{docker, `{"mediaType":"` + docker + `","config":{}}`, docker},
		{oci, `{"config":{},"layers":[]}`, oci},
		{oci, `{"mediaType":"` + docker + `","config":{}}`, docker},
		{"application/json", `{"layers":[]}`, oci},
		{"text/plain", `{"manifests":[]}`, index},
		{"", `{"mediaType":"` + list + `","manifests":[]}`, list},
		{"", `{"mediaType":"application/vnd.example"}`, "application/vnd.example"},
		{oci, `{"mediaType":"application/vnd.example","config":{}}`, "application/vnd.example"},
		{index, `{"mediaType":"` + oci + `","manifests":[]}`, ""},
		{oci, `{"manifests":[]}`, ""},
		{index, `{"config":{}}`, ""},
		{index, `{"manifests":[],"layers":[]}`, ""},
		{"", `{}`, ""},
		{"", `[]`, ""},
		{docker, `{"schemaVersion":1,"fsLayers":[]}`, ""},
	} {
		got, err := DocumentType(tt.said, []byte(tt.raw))
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s called %q: got %q, %v, want %q", tt.raw, tt.said, got, err, tt.want)
		}
	}
}

func TestDocument(t *testing.T) {
	r := registrytest.Start(t)
	c := newClient(t)
	content := []byte(`{"some":"config"}`)
	desc := r.PushBlob("team/app", ocispec.MediaTypeImageConfig, content)
	desc.URLs = []string{"http://127.0.0.1:1/elsewhere"}
	if raw, err := c.Document(t.Context(), r.Host+"/team/app", desc, 100); err != nil || !bytes.Equal(raw, content) {
		t.Errorf("got %q, %v", raw, err)
	}
	if _, err := c.Document(t.Context(), r.Host+"/team/app", desc, 10); !errdefs.IsOutOfRange(err) {
		t.Errorf("beyond the limit: %v", err)
	}
	for _, size := range []int64{0, 3, 90} {
		wrong := desc
		wrong.Size = size
		if _, err := c.Document(t.Context(), r.Host+"/team/app", wrong, 100); !errdefs.IsDataLoss(err) {
			t.Errorf("called %d bytes large: %v", size, err)
		}
	}
	r.Use(answer("/blobs/", "application/octet-stream", bytes.ToUpper(content)))
	if raw, err := c.Document(t.Context(), r.Host+"/team/app", desc, 100); !errdefs.IsDataLoss(err) {
		t.Errorf("other content: %q, %v", raw, err)
	}
}

func TestReferrers(t *testing.T) {
	r := registrytest.Start(t)
	c := newClient(t)
	img := r.PushImage("team/app", registrytest.Image{})
	if all, err := c.Referrers(t.Context(), r.Host+"/team/app", img.Desc.Digest, "a"); err != nil || len(all) > 0 {
		t.Errorf("without any: %v, %v", all, err)
	}
	about := pushAbout(t, r, img.Desc, "a")
	other := pushAbout(t, r, img.Desc, "b")
	r.PushManifest("team/app", strings.Replace(img.Desc.Digest.String(), ":", "-", 1), ocispec.MediaTypeImageIndex,
		asJSON(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{about, other}}))
	if all, err := c.Referrers(t.Context(), r.Host+"/team/app", img.Desc.Digest, "a"); err != nil || len(all) != 1 || all[0].Digest != about.Digest {
		t.Errorf("by the tag: %v, %v, want %v", all, err, about)
	}
	if _, err := c.Referrers(t.Context(), r.Host+"/team/app", "sha256:../../x", "a"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("of what is no digest: %v", err)
	}
	r.Use(answer("/manifests/sha256-", ocispec.MediaTypeImageIndex, bytes.Repeat([]byte(" "), 5<<20)))
	if all, err := c.Referrers(t.Context(), r.Host+"/team/app", img.Desc.Digest, "a"); err == nil {
		t.Errorf("a list of 5 MB: %v", all)
	}
}

// pushAbout pushes an artifact about a manifest of team/app.
func pushAbout(t *testing.T, r *registrytest.Registry, subject ocispec.Descriptor, kind string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Subject: &subject, Config: r.PushBlob("team/app", "application/vnd.oci.empty.v1+json", []byte("{}"))}
	m.SchemaVersion = 2
	m.Layers = []ocispec.Descriptor{r.PushBlob("team/app", "text/plain", []byte("about "+kind))}
	desc := r.PushManifest("team/app", "", m.MediaType, asJSON(t, m))
	desc.ArtifactType = kind
	return desc
}

// writes are the requests that change a registry.
func writes(requests []string) (all []string) {
	for _, req := range requests {
		if !strings.HasPrefix(req, "GET ") && !strings.HasPrefix(req, "HEAD ") {
			all = append(all, req)
		}
	}
	return all
}

func TestCopy(t *testing.T) {
	from, to := registrytest.Start(t), registrytest.Start(t)
	c := newClient(t)
	index, images := from.PushIndex("team/app:v1", registrytest.Image{Layers: []registrytest.Layer{{"a": "1"}, {"b": "2"}}},
		registrytest.Image{Layers: []registrytest.Layer{{"a": "1"}, {"c": "3"}}, Docker: true})
	about := pushAbout(t, from, images[0].Desc, "kind")
	pushAbout(t, from, images[0].Desc, "other")
	from.PushManifest("team/app", strings.Replace(images[0].Desc.Digest.String(), ":", "-", 1), ocispec.MediaTypeImageIndex,
		asJSON(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{about}}))
	dest := to.Host + "/far/copy"
	copyAll := func() {
		t.Helper()
		copier := c.NewCopier(dest)
		copier.Referrers = []string{"kind"}
		copier.Add(from.Host+"/team/app:v1", index, nil)
		if err := copier.Copy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	copyAll()
	for _, d := range []ocispec.Descriptor{index, images[0].Desc, images[1].Desc, about} {
		if desc, _, err := c.Manifest(t.Context(), dest+"@"+d.Digest.String()); err != nil || desc.Digest != d.Digest {
			t.Errorf("%s was not copied: %v", d.Digest, err)
		}
	}
	for _, img := range images {
		for _, layer := range append(img.Manifest.Layers, img.Manifest.Config) {
			if _, err := c.Document(t.Context(), dest, layer, 1<<20); err != nil {
				t.Error(err)
			}
		}
	}
	puts := 0
	for _, req := range to.Requests() {
		if strings.HasPrefix(req, "PUT /v2/far/copy/blobs/") {
			puts++
		}
	}
	if puts != 7 { // 3 layers, one of which both have, 2 configs, 2 of the artifact
		t.Errorf("%d blobs were sent, want each once: 7", puts)
	}
	from.Requests()
	copyAll()
	if all := writes(to.Requests()); len(all) > 0 {
		t.Errorf("what is there was sent again: %q", all)
	}
	for _, req := range from.Requests() {
		if strings.Contains(req, "/blobs/") || strings.HasPrefix(req, "GET ") && strings.HasSuffix(req, images[0].Desc.Digest.String()) && strings.Contains(req, "/manifests/") {
			t.Errorf("what is there was asked for: %s", req)
		}
	}
}

// TestCopyOnce: what is named again and again is read once, and asked for once.
func TestCopyOnce(t *testing.T) {
	from, to := registrytest.Start(t), registrytest.Start(t)
	c := newClient(t)
	img := from.PushImage("team/app", registrytest.Image{})
	desc := img.Desc
	for range maxCopyDepth {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
		for range 100 {
			index.Manifests = append(index.Manifests, desc)
		}
		desc = from.PushManifest("team/app", "v1", index.MediaType, asJSON(t, index))
	}
	copier := c.NewCopier(to.Host + "/far/copy")
	copier.Add(from.Host+"/team/app", desc, nil)
	if err := copier.Copy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(from.Requests()) + len(to.Requests()); n > 40 {
		t.Errorf("%d requests for %d manifests and a config", n, maxCopyDepth+1)
	}
}

// TestHostileCopy: what the source says is a claim, and a part of an image that is not as it should be leaves no image.
func TestHostileCopy(t *testing.T) {
	from, to := registrytest.Start(t), registrytest.Start(t)
	c := newClient(t)
	img := from.PushImage("team/app:v1", registrytest.Image{Layers: []registrytest.Layer{{"a": "1"}}})
	index := func(mediaType string, children ...ocispec.Descriptor) ocispec.Descriptor {
		return from.PushManifest("team/app", "", mediaType, asJSON(t, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": children}))
	}
	change := func(f func(*ocispec.Descriptor)) ocispec.Descriptor {
		d := img.Desc
		f(&d)
		return d
	}
	deep := img.Desc
	for range 6 {
		deep = index(ocispec.MediaTypeImageIndex, deep)
	}
	many := make([]ocispec.Descriptor, 1001)
	for i := range many {
		many[i] = from.PushManifest("team/app", "", ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"config":{"digest":%q,"size":%d},"layers":[],"annotations":{"n":"%d"}}`, img.Manifest.Config.Digest, img.Manifest.Config.Size, i))
	}
	for _, tt := range []struct {
		name string
		desc ocispec.Descriptor
		kind func(error) bool
	}{
		{"of another size", change(func(d *ocispec.Descriptor) { d.Size++ }), errdefs.IsDataLoss},
		{"beyond the limit", change(func(d *ocispec.Descriptor) { d.Size = MaxManifestSize + 1 }), errdefs.IsOutOfRange},
		{"of another type", change(func(d *ocispec.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex }), errdefs.IsDataLoss},
		{"with a path for a digest", change(func(d *ocispec.Descriptor) { d.Digest = "sha256:../../../x" }), errdefs.IsDataLoss},
		{"that is not there", change(func(d *ocispec.Descriptor) { d.Digest = digest.FromString("x") }), errdefs.IsNotFound},
		{"nested", deep, errdefs.IsOutOfRange},
		{"of many", index(ocispec.MediaTypeImageIndex, many...), errdefs.IsOutOfRange},
	} {
		copier := c.NewCopier(to.Host + "/far/copy")
		copier.Add(from.Host+"/team/app", tt.desc, nil)
		if err := copier.Copy(t.Context()); !tt.kind(err) {
			t.Errorf("a manifest %s: %v", tt.name, err)
		}
	}
	if all := writes(to.Requests()); len(all) > 0 {
		t.Errorf("something was sent before all was read: %q", all)
	}
	from.Use(answer("/blobs/"+img.Manifest.Layers[0].Digest.String(), "application/octet-stream", bytes.Repeat([]byte("x"), int(img.Manifest.Layers[0].Size))))
	copier := c.NewCopier(to.Host + "/far/copy")
	copier.Add(from.Host+"/team/app", img.Desc, nil)
	if err := copier.Copy(t.Context()); !errdefs.IsDataLoss(err) {
		t.Errorf("a layer with other content: %v", err)
	}
	for _, req := range writes(to.Requests()) {
		if strings.Contains(req, "/manifests/") || strings.HasPrefix(req, "PUT ") && strings.Contains(req, img.Manifest.Layers[0].Digest.String()) {
			t.Errorf("a damaged image was completed: %s", req)
		}
	}
	if _, err := c.Resolve(t.Context(), to.Host+"/far/copy@"+img.Desc.Digest.String()); !errdefs.IsNotFound(err) {
		t.Errorf("a damaged image is there: %v", err)
	}
}
