package view

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is a store of its own.
type lab struct {
	t testing.TB
	s *store.Store
	m *container.Manager
}

func newLab(t testing.TB) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-view-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := store.Open(filepath.Join(dir, "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return &lab{t, s, &container.Manager{Store: s}}
}

// put puts a value into the store as JSON.
func (l *lab) put(mediaType string, value any) ocispec.Descriptor {
	l.t.Helper()
	data, err := json.Marshal(value)
	must(l.t, err)
	desc, err := l.s.PutBlob(l.t.Context(), mediaType, data)
	must(l.t, err)
	return desc
}

// layer makes a layer of one file.
func (l *lab) layer(content string) layer.ID {
	l.t.Helper()
	d, err := l.s.NewLayer()
	must(l.t, err)
	defer d.Abort()
	must(l.t, os.WriteFile(filepath.Join(d.FS, "file"), []byte(content), 0o644))
	id, err := d.Commit(l.t.Context())
	must(l.t, err)
	return id
}

// image puts an image of layers into the store, for a platform, without a name. The label "is" tells its content, which
// makes it another one.
func (l *lab) image(is, platform string, age time.Duration, layers ...layer.ID) store.Image {
	l.t.Helper()
	created := time.Now().Add(-age).UTC()
	var config dockerspec.DockerOCIImage
	config.Created, config.OS, config.Architecture = &created, "linux", platform
	config.RootFS.Type, config.Config.Labels = "layers", map[string]string{"is": is, "any": ""}
	config.History = []ocispec.History{{CreatedBy: "ENV first", EmptyLayer: true}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, id := range layers {
		desc, diff, err := l.s.Blob(l.t.Context(), id, layer.Encoding{})
		must(l.t, err)
		config.RootFS.DiffIDs, m.Layers = append(config.RootFS.DiffIDs, diff), append(m.Layers, desc)
		config.History = append(config.History, ocispec.History{CreatedBy: "COPY", Comment: "a layer"})
	}
	config.History = append(config.History, ocispec.History{CreatedBy: "CMD last", EmptyLayer: true})
	m.Config = l.put(ocispec.MediaTypeImageConfig, config)
	desc := l.put(ocispec.MediaTypeImageManifest, m)
	return store.Image{Name: m.Config.Digest.String(), Manifest: desc, ID: m.Config.Digest, Created: created, Layers: layers, Size: -1}
}

// name gives an image a name, or none if that is "".
func (l *lab) name(img store.Image, name string) store.Image {
	l.t.Helper()
	if name != "" {
		var err error
		img.Name, err = store.NormalizeName(name)
		must(l.t, err)
	}
	must(l.t, l.s.SetImages(l.t.Context(), img))
	return img
}

// container records a container of an image, older ones last; state is what became of it.
func (l *lab) container(name string, img store.Image, age time.Duration, config container.Config, state container.State) store.Container {
	l.t.Helper()
	id, err := store.NewContainerID()
	must(l.t, err)
	data, err := json.Marshal(config)
	must(l.t, err)
	c := store.Container{ID: id, Name: name, Image: img.Name, ImageID: img.ID, Snapshot: img.Layers, Config: data, Created: time.Now().Add(-age)}
	must(l.t, l.s.AddContainer(l.t.Context(), c))
	if !state.Started.IsZero() {
		data, err := json.Marshal(state)
		must(l.t, err)
		must(l.t, os.WriteFile(filepath.Join(l.s.ContainerDir(id), "state.json"), data, 0o600))
	}
	return c
}

// run makes a container one that runs, as long as the test does.
func (l *lab) run(c store.Container) {
	l.t.Helper()
	lock, err := os.OpenFile(filepath.Join(l.s.ContainerDir(c.ID), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	must(l.t, err)
	l.t.Cleanup(func() { lock.Close() })
	flock(l.t, lock)
}

// want compares what is written in one line.
func want(t testing.TB, what string, got any, want string) {
	t.Helper()
	if text := strings.Trim(fmt.Sprint(got), "[]"); text != want {
		t.Errorf("%s: got %q, want %q", what, text, want)
	}
}
