package build_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/layer"
)

// forged is a cache in a directory whose config somebody changed. All digests are right again.
type forged struct {
	t   *testing.T
	dir string
}

func (f *forged) read(d digest.Digest, v any) {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, "blobs", "sha256", d.Encoded()))
	must(f.t, err)
	must(f.t, json.Unmarshal(data, v))
}

func (f *forged) write(v any) (digest.Digest, int64) {
	f.t.Helper()
	data, err := json.Marshal(v)
	must(f.t, err)
	d := digest.FromBytes(data)
	must(f.t, os.WriteFile(filepath.Join(f.dir, "blobs", "sha256", d.Encoded()), data, 0o644))
	return d, int64(len(data))
}

// layerOf is a layer as a cache's config has it.
type layerOf struct {
	Blob        digest.Digest `json:"blob"`
	Parent      int           `json:"parent"`
	Annotations struct {
		MediaType string        `json:"mediaType"`
		DiffID    digest.Digest `json:"diffID"`
		Size      int64         `json:"size"`
	} `json:"annotations"`
}

// change has f change the layers of the config; held says of each whether the cache has it.
func (f *forged) change(change func(layers []layerOf, held func(digest.Digest) bool)) {
	f.t.Helper()
	var index ocispec.Index
	data, err := os.ReadFile(filepath.Join(f.dir, "index.json"))
	must(f.t, err)
	must(f.t, json.Unmarshal(data, &index))
	var m ocispec.Manifest
	f.read(index.Manifests[0].Digest, &m)
	config := map[string]json.RawMessage{}
	f.read(m.Config.Digest, &config)
	var layers []layerOf
	must(f.t, json.Unmarshal(config["layers"], &layers))
	change(layers, func(d digest.Digest) bool {
		for _, l := range m.Layers {
			if l.Digest == d {
				return true
			}
		}
		return false
	})
	config["layers"], err = json.Marshal(layers)
	must(f.t, err)
	m.Config.Digest, m.Config.Size = f.write(config)
	index.Manifests[0].Digest, index.Manifests[0].Size = f.write(m)
	data, err = json.Marshal(index)
	must(f.t, err)
	must(f.t, os.WriteFile(filepath.Join(f.dir, "index.json"), data, 0o644))
}

const forgedDockerfile = `FROM busybox
RUN echo made > /made
RUN cat /made > /copy
FROM busybox
RUN echo more > /more
RUN cat /more > /less
FROM scratch
COPY --from=0 /copy /copy
COPY --from=1 /less /less
`

// What a cache says of its layers is not believed where it can be seen, and gives nothing away of what
// is in the store.
func TestForgedCache(t *testing.T) {
	// secret is a layer of somebody else's in the store of the build.
	tests := map[string]func(layers []layerOf, held func(digest.Digest) bool, secret layerOf){
		"diffIDs that its layers have not": func(layers []layerOf, held func(digest.Digest) bool, _ layerOf) {
			for i, l := range layers {
				if held(l.Blob) {
					layers[i].Annotations.DiffID = digest.FromString("other")
				}
			}
		},
		"another diffID for a base image's layer": func(layers []layerOf, held func(digest.Digest) bool, _ layerOf) {
			for i, l := range layers {
				if !held(l.Blob) {
					layers[i].Annotations.DiffID = digest.FromString("other")
				}
			}
		},
		"a layer of its own for a base image's": func(layers []layerOf, held func(digest.Digest) bool, _ layerOf) {
			for i, l := range layers {
				if held(l.Blob) {
					continue
				}
				for _, own := range layers {
					if held(own.Blob) {
						layers[i].Blob, layers[i].Annotations.Size = own.Blob, own.Annotations.Size
					}
				}
			}
		},
		"a layer that it has not": func(layers []layerOf, held func(digest.Digest) bool, secret layerOf) {
			for i, l := range layers {
				if held(l.Blob) {
					layers[i] = secret
				}
			}
		},
	}
	other := newHarness(t)
	other.write("Dockerfile", forgedDockerfile)
	from := filepath.Join(other.context, "cache")
	to := cache.Entry{Type: cache.TypeLocal, Attrs: map[string]string{"dest": from, "mode": "max"}}
	other.build(build.Request{CacheTo: []cache.Entry{to}, Tags: []string{"app"}})
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.write("Dockerfile", "FROM busybox\nRUN echo secret > /copy; echo secret > /made\n")
			res, _ := h.build(build.Request{Tags: []string{"secret"}})
			var secret layerOf
			top := h.whole(res).Layers[1]
			secret.Blob, secret.Annotations.DiffID = top.Digest, top.Digest
			secret.Annotations.MediaType, secret.Annotations.Size = top.MediaType, top.Size

			f := &forged{t, filepath.Join(h.context, "cache")}
			must(t, os.CopyFS(f.dir, os.DirFS(from)))
			f.change(func(layers []layerOf, held func(digest.Digest) bool) { change(layers, held, secret) })
			h.write("Dockerfile", forgedDockerfile)
			imports := []cache.Entry{{Type: cache.TypeLocal, Attrs: map[string]string{"src": f.dir}}}
			for _, entries := range [][]cache.Entry{imports, nil} {
				req, out := h.local("")
				req.CacheFrom = entries
				_, ev := h.build(req)
				told := 0
				for _, step := range ev.ran {
					if strings.HasPrefix(step, "importing cache layer ") {
						told++
					}
				}
				if told > 1 || entries == nil && told > 0 {
					t.Errorf("the cache was believed again after it was wrong: %q", ev.ran)
				}
				wantFile(t, filepath.Join(out, "copy"), "made\n")
			}
			// Nothing of it stays: the base image is what it was.
			h.write("Dockerfile", "FROM busybox\nRUN test ! -e /made\n")
			h.build(build.Request{})
			img, err := h.store.Image(context.Background(), "secret")
			must(t, err)
			if _, _, err := h.store.Blob(context.Background(), img.Layers[1], layer.Encoding{}); err != nil {
				t.Error(err)
			}
		})
	}
}
