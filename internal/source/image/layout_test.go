package imagesource

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/registry"
)

// testLayout is an OCI layout that a test writes.
type testLayout struct {
	t   *testing.T
	dir string
}

func newLayout(t *testing.T) *testLayout {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &testLayout{t, dir}
}

func (l *testLayout) blob(mediaType string, v any) ocispec.Descriptor {
	l.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			l.t.Fatal(err)
		}
	}
	d := digest.FromBytes(data)
	if err := os.WriteFile(filepath.Join(l.dir, "blobs/sha256", d.Encoded()), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l *testLayout) index(manifests ...ocispec.Descriptor) {
	l.t.Helper()
	data, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: manifests})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "index.json"), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// image writes an image with one empty layer.
func (l *testLayout) image(arch string) ocispec.Descriptor {
	var b bytes.Buffer
	if err := tar.NewWriter(&b).Close(); err != nil {
		l.t.Fatal(err)
	}
	layer := l.blob(ocispec.MediaTypeImageLayer, b.Bytes())
	config := l.blob(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	return l.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
}

func named(d ocispec.Descriptor, key, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{key: name}
	return d
}

func TestFindInLayout(t *testing.T) {
	l := newLayout(t)
	one, two := l.image("amd64"), l.image("arm64")
	ref := LayoutDir{l.dir}
	l.index(named(one, "x", "y"))
	if d, err := ref.Find("latest"); err != nil || d != one.Digest {
		t.Errorf("the only image: %s, %v", d, err)
	}
	l.index(named(one, ocispec.AnnotationRefName, "v1"), named(two, ocispec.AnnotationRefName, "v2"))
	if d, err := ref.Find("v2"); err != nil || d != two.Digest {
		t.Errorf("v2: %s, %v", d, err)
	}
	l.index(named(one, ocispec.AnnotationRefName, "v1"), named(two, "io.containerd.image.name", "v1"))
	if d, err := ref.Find("v1"); err != nil || d != two.Digest { // the full name comes first
		t.Errorf("v1: %s, %v", d, err)
	}
	if _, err := ref.Find("v3"); err == nil || err.Error() != `the layout has 2 images, none of them named "v3"` {
		t.Errorf("v3: %v", err)
	}
	index := filepath.Join(l.dir, "index.json")
	if err := errors.Join(os.Remove(index), unix.Mkfifo(index, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := ref.Find("latest"); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a pipe for an index: %v", err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	l.index(ocispec.Descriptor{Digest: "sha256:../../etc/passwd"})
	if _, err := ref.Find("latest"); err == nil {
		t.Error("a digest that is a path was taken")
	}
}

func TestResolveLayout(t *testing.T) {
	l := newLayout(t)
	amd, arm := l.image("amd64"), l.image("arm64")
	amd.Platform, arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	gone := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4, Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	index := l.blob(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{gone, amd, arm},
	})
	m := newMemStore()
	s := New(m, registry.New(registry.Options{DockerConfigDir: t.TempDir()}))
	ref := func(d digest.Digest) string { return "docker.io/library/name@" + d.String() }
	for arch, want := range map[string]digest.Digest{"amd64": amd.Digest, "arm64": arm.Digest} {
		img, err := s.ResolveLayout(t.Context(), LayoutDir{l.dir}, ref(index.Digest), ocispec.Platform{OS: "linux", Architecture: arch})
		if err != nil || img.Digest != want {
			t.Fatalf("%s: got %+v, %v", arch, img, err)
		}
		if m.HasBlob(img.Manifest.Layers[0].Digest) {
			t.Error("a layer was copied before anybody needed it")
		}
		if arch == "arm64" {
			continue
		}
		if err := s.PullLayout(t.Context(), LayoutDir{l.dir}, img, 0, func(ocispec.Descriptor, int64, int64) {}); err != nil || !m.HasBlob(img.Manifest.Layers[0].Digest) {
			t.Errorf("pulling the layer: %v", err)
		}
		clear(m.blobs)
	}
	s390x := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	if _, err := s.ResolveLayout(t.Context(), LayoutDir{l.dir}, ref(index.Digest), s390x); err == nil || !strings.Contains(err.Error(), "reading OCI layout "+l.dir) {
		t.Errorf("a platform that the layout lacks: %v", err)
	}
	if _, err := s.ResolveLayout(t.Context(), LayoutDir{l.dir}, "docker.io/library/name:v1", s390x); err == nil || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("without a digest: %v", err)
	}
}

func TestHostileLayouts(t *testing.T) {
	big := make([]byte, registry.MaxManifestSize+1)
	tests := map[string]func(l *testLayout) digest.Digest{
		"other bytes": func(l *testLayout) digest.Digest {
			d := l.image("amd64").Digest
			if err := os.WriteFile(filepath.Join(l.dir, "blobs/sha256", d.Encoded()), []byte("{}"), 0o600); err != nil {
				l.t.Fatal(err)
			}
			return d
		},
		"a pipe": func(l *testLayout) digest.Digest {
			d := digest.FromString("wanted")
			if err := unix.Mkfifo(filepath.Join(l.dir, "blobs/sha256", d.Encoded()), 0o600); err != nil {
				l.t.Fatal(err)
			}
			return d
		},
		"indexes of indexes": func(l *testLayout) digest.Digest { // 10^15 ways to the bottom
			d := l.blob(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{}})
			for range 5 {
				var index ocispec.Index
				for range 1000 {
					index.Manifests = append(index.Manifests, d)
				}
				d = l.blob(ocispec.MediaTypeImageIndex, index)
			}
			return d.Digest
		},
		"huge": func(l *testLayout) digest.Digest { return l.blob("", big).Digest },
		"a link to a secret": func(l *testLayout) digest.Digest {
			d := digest.FromString("wanted")
			secret := filepath.Join(l.t.TempDir(), "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				l.t.Fatal(err)
			}
			if err := os.Symlink(secret, filepath.Join(l.dir, "blobs/sha256", d.Encoded())); err != nil {
				l.t.Fatal(err)
			}
			return d
		},
		"path for a digest": func(l *testLayout) digest.Digest {
			return l.blob(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}`)).Digest
		},
		"no image": func(l *testLayout) digest.Digest { return l.blob("", []byte("text")).Digest },
		"missing":  func(*testLayout) digest.Digest { return digest.FromString("missing") },
	}
	for name, make := range tests {
		t.Run(name, func(t *testing.T) {
			l, m := newLayout(t), newMemStore()
			s := New(m, registry.New(registry.Options{DockerConfigDir: t.TempDir()}))
			d := make(l)
			_, err := s.ResolveLayout(t.Context(), LayoutDir{l.dir}, "docker.io/library/name@"+d.String(), ocispec.Platform{OS: "linux", Architecture: "amd64"})
			if err == nil || !strings.HasPrefix(err.Error(), "reading OCI layout "+l.dir) {
				t.Errorf("error is %v", err)
			}
			for got, data := range m.blobs {
				if got != digest.FromBytes(data) {
					t.Errorf("blob %s has other bytes", got)
				}
			}
		})
	}
}
