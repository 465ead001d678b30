package load

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-load-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := store.Open(filepath.Join(dir, "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// wantNothing checks that a store has no files of anything.
func wantNothing(t testing.TB, s *store.Store) {
	t.Helper()
	for _, pattern := range []string{"blobs/*/*", "layers/*", "tmp/*/*"} {
		left, err := filepath.Glob(filepath.Join(s.Root(), pattern))
		must(t, err)
		if len(left) > 0 {
			t.Errorf("these were left: %q", left)
		}
	}
}

type entry struct{ name, content string }

func tarOf(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.content))})
		io.WriteString(w, e.content)
	}
	w.Close()
	return b.Bytes()
}

func asJSON(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// layout is an OCI layout that a test may spoil.
type layout struct {
	files []entry
	index ocispec.Index
}

func (l *layout) blob(mediaType, content string) ocispec.Descriptor {
	d := digest.FromString(content)
	l.files = append(l.files, entry{"blobs/sha256/" + d.Encoded(), content})
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// image adds an image of one layer for an architecture.
func (l *layout) image(arch, content string) ocispec.Descriptor {
	layer := l.blob(ocispec.MediaTypeImageLayer, string(tarOf(entry{"file", content})))
	config := l.blob(ocispec.MediaTypeImageConfig, asJSON(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	}))
	desc := l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	}))
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc
}

func (l *layout) nest(children ...ocispec.Descriptor) ocispec.Descriptor {
	return l.blob(ocispec.MediaTypeImageIndex, asJSON(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}))
}

func (l *layout) add(desc ocispec.Descriptor, annotations map[string]string) {
	desc.Annotations = annotations
	l.index.Manifests = append(l.index.Manifests, desc)
}

func (l *layout) tar() []byte {
	l.index.SchemaVersion = 2
	return tarOf(append([]entry{{"index.json", asJSON(l.index)}, {"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}}, l.files...)...)
}

func loadBytes(s *store.Store, data []byte, platforms ...ocispec.Platform) ([]store.Image, error) {
	return Load(context.Background(), s, bytes.NewReader(data), Options{Platforms: platforms})
}

func names(images []store.Image) string {
	var all []string
	for _, i := range images {
		if i.Tagged() {
			all = append(all, i.Name)
		} else {
			all = append(all, "<none>")
		}
	}
	return strings.Join(all, " ")
}

// Names of an OCI layout: containerd's annotation, a reference that is more than a tag, or none.
func TestLayoutNames(t *testing.T) {
	for want, annotations := range map[string]map[string]string{
		"docker.io/library/app:v1": {"io.containerd.image.name": "docker.io/library/app:v1", ocispec.AnnotationRefName: "v2"},
		"docker.io/library/app:v2": {ocispec.AnnotationRefName: "app:v2"},
		"example.com/app:latest":   {ocispec.AnnotationRefName: "example.com/app"},
		"<none>":                   {ocispec.AnnotationRefName: "v1"},
		"<none> ":                  nil,
		"<none>  ":                 {"io.containerd.image.name": "NOT A NAME"},
		"<none>   ":                {"io.containerd.image.name": "app@" + digest.FromString("x").String()},
	} {
		s := newStore(t)
		var l layout
		l.add(l.image("amd64", "a"), annotations)
		images, err := loadBytes(s, l.tar())
		if err != nil || names(images) != strings.TrimSpace(want) {
			t.Errorf("annotations %v: names %q, %v, want %q", annotations, names(images), err, want)
		}
	}
}

// The same image under two names is one image with two names; nested indexes are read.
func TestLayoutIndex(t *testing.T) {
	s := newStore(t)
	var l layout
	one := l.image("amd64", "a")
	l.add(one, map[string]string{ocispec.AnnotationRefName: "app:v1"})
	l.add(one, map[string]string{ocispec.AnnotationRefName: "app:v2"})
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("not here"), Size: 8}
	many := l.nest(missing, l.nest(l.image("s390x", "s")), one)
	l.add(many, map[string]string{ocispec.AnnotationRefName: "many:v1"})
	images, err := loadBytes(s, l.tar())
	if err != nil || names(images) != "docker.io/library/app:v1 docker.io/library/app:v2 docker.io/library/many:v1" {
		t.Fatalf("names %q, %v", names(images), err)
	}
	got, err := s.Image(context.Background(), "many:v1")
	if err != nil || got.Index == nil || got.Index.Digest != many.Digest || len(got.Layers) != 1 || !s.HasBlob(many.Digest) {
		t.Errorf("the index is %+v, %v", got, err)
	}
	must(t, s.Check(context.Background(), got.Layers))
}

// However often something is named, it is read once.
func TestRepetitionsInLayouts(t *testing.T) {
	s := newStore(t)
	var l layout
	many := func(desc ocispec.Descriptor) []ocispec.Descriptor {
		return slices.Repeat([]ocispec.Descriptor{desc}, 1000)
	}
	zeros := string(tarOf(entry{"zeros", strings.Repeat("\x00", 1<<20)}))
	packed := l.blob(ocispec.MediaTypeImageLayerGzip, gzipped(t, zeros))
	diffIDs := slices.Repeat([]digest.Digest{digest.FromString(zeros)}, 1000)
	config := l.blob(ocispec.MediaTypeImageConfig, asJSON(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	}))
	desc := l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{Config: config, Layers: many(packed)}))
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	for range 4 {
		desc = l.nest(many(desc)...)
	}
	l.add(desc, map[string]string{ocispec.AnnotationRefName: "app:v1"})
	for range 99 {
		l.index.Manifests = append(l.index.Manifests, l.index.Manifests[0])
	}
	images, err := loadBytes(s, l.tar())
	if err != nil || names(images) != "docker.io/library/app:v1" {
		t.Fatalf("names %q, %v", names(images), err)
	}
	must(t, s.Check(context.Background(), images[0].Layers))
}

func gzipped(t *testing.T, data string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, data)
	must(t, errors.Join(err, w.Close()))
	return b.String()
}

// What is wrong with an archive is told as the archive's fault, and nothing of it is kept.
func TestBadLayouts(t *testing.T) {
	for want, spoil := range map[string]func(l *layout){
		"is not in the archive":               func(l *layout) { l.files = l.files[1:] },
		"the content of blobs/sha256/":        func(l *layout) { l.files[1].content += " " },
		"nested more than":                    func(l *layout) { l.index.Manifests[0] = deep(l, 10) },
		"invalid checksum digest":             func(l *layout) { l.index.Manifests[0].Digest = "sha256:../../etc/passwd" },
		"has 2 layers, its config 1 diff_ids": func(l *layout) { l.respell(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }) },
		"bytes, want":                         func(l *layout) { l.respell(func(m *ocispec.Manifest) { m.Layers[0].Size++ }) },
		"is no config of an image":            func(l *layout) { l.respell(func(m *ocispec.Manifest) { m.Config = l.blob("x", "{}") }) },
		"decoding manifest":                   func(l *layout) { l.index.Manifests[0] = l.blob("x", "[]") },
		"of index":                            func(l *layout) { l.index.Manifests[0] = l.nest() },
		"more than 1000": func(l *layout) {
			for range 1001 {
				l.index.Manifests = append(l.index.Manifests, l.index.Manifests[0])
			}
		},
		"the config wants": func(l *layout) {
			l.respell(func(m *ocispec.Manifest) {
				m.Layers[0] = l.blob(ocispec.MediaTypeImageLayer, string(tarOf(entry{"other", ""})))
			})
		},
		"which is no directory": func(l *layout) {
			l.index.Manifests[0] = evil(l)
		},
	} {
		t.Run(want, func(t *testing.T) {
			s := newStore(t)
			var l layout
			l.add(l.image("amd64", "a"), nil)
			spoil(&l)
			want = strings.Replace(want, "the config wants", "config wants", 1)
			if _, err := loadBytes(s, l.tar()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
			wantNothing(t, s)
		})
	}
}

// respell changes the first manifest.
func (l *layout) respell(change func(*ocispec.Manifest)) {
	var m ocispec.Manifest
	for _, f := range l.files {
		if strings.HasSuffix(f.name, l.index.Manifests[0].Digest.Encoded()) {
			json.Unmarshal([]byte(f.content), &m)
		}
	}
	change(&m)
	l.index.Manifests[0] = l.blob(ocispec.MediaTypeImageManifest, asJSON(m))
}

func deep(l *layout, n int) ocispec.Descriptor {
	desc := l.image("amd64", "deep")
	for range n {
		desc = l.nest(desc)
	}
	return desc
}

func evil(l *layout) ocispec.Descriptor {
	layer := l.blob(ocispec.MediaTypeImageLayer, string(tarOf(entry{"etc", "x"}, entry{"etc/evil", "x"})))
	config := l.blob(ocispec.MediaTypeImageConfig, asJSON(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{layer.Digest}},
	}))
	return l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}}))
}

// A reader that breaks off, and a context that ends, leave nothing either.
func TestLoadIsInterrupted(t *testing.T) {
	var l layout
	l.add(l.image("amd64", strings.Repeat("a", 100_000)), nil)
	data := l.tar()
	s := newStore(t)
	if _, err := Load(context.Background(), s, io.MultiReader(bytes.NewReader(data[:60_000]), failingReader{}), Options{}); err == nil || !strings.Contains(err.Error(), "cable") {
		t.Errorf("a broken reader gave %v", err)
	}
	wantNothing(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Load(ctx, s, bytes.NewReader(data), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gave %v", err)
	}
	wantNothing(t, s)
	_, err := Import(ctx, s, bytes.NewReader(tarOf(entry{"f", "x"})), ImportOptions{Created: time.Now()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gave %v", err)
	}
	wantNothing(t, s)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the cable is cut") }

func TestProgress(t *testing.T) {
	var l layout
	l.add(l.image("amd64", strings.Repeat("a", 200_000)), nil)
	var told []int64
	_, err := Load(t.Context(), newStore(t), bytes.NewReader(l.tar()), Options{Progress: func(name string, n, total int64) {
		if name != l.files[0].name || total != int64(len(l.files[0].content)) {
			t.Errorf("told of %s, %d of %d", name, n, total)
		}
		told = append(told, n)
	}})
	if err != nil || len(told) == 0 || !slices.IsSorted(told) || told[len(told)-1] != int64(len(l.files[0].content)) {
		t.Errorf("told %v, %v", told, err)
	}
}

// TestLoadIsBounded: what manifests and configs say takes memory and time by what they are, not by what they repeat.
func TestLoadIsBounded(t *testing.T) {
	config := func(layers int, more string) string {
		return asJSON(ocispec.Image{Author: more, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
			RootFS: ocispec.RootFS{Type: "layers", DiffIDs: slices.Repeat([]digest.Digest{digest.FromString("")}, layers)}})
	}
	for want, make := range map[string]func(l *layout){
		"manifests and configs that the archive names have more than 67108864 bytes": func(l *layout) {
			long := l.blob(ocispec.MediaTypeImageConfig, config(0, strings.Repeat("a", maxJSON-1000)))
			for i := range 5 { // each is short enough, and so is what is read of each other image
				l.add(l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{Config: long, Annotations: map[string]string{"n": fmt.Sprint(i)}})), nil)
			}
		},
		"has 1001 layers, more than 1000": func(l *layout) {
			l.add(l.blob(ocispec.MediaTypeImageManifest, asJSON(ocispec.Manifest{Config: l.blob(ocispec.MediaTypeImageConfig, config(1001, ""))})), nil)
		},
		"gives more than 10000 names": func(l *layout) {
			l.files = append(l.files, entry{"config", config(0, "")})
			l.files = append(l.files, entry{"manifest.json", asJSON([]dockerImage{{Config: "config", RepoTags: slices.Repeat([]string{"a"}, 10_001)}})})
		},
	} {
		s := newStore(t)
		var l layout
		make(&l)
		if len(l.index.Manifests) == 0 {
			l.add(l.image("amd64", "a"), nil)
		}
		if _, err := loadBytes(s, l.tar()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		wantNothing(t, s)
	}
}

func TestTooManyFiles(t *testing.T) {
	s := newStore(t)
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		for i := 0; ; i++ {
			if w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint(i)}) != nil {
				return
			}
		}
	}()
	_, err := Load(context.Background(), s, pr, Options{})
	pr.Close()
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "more than 100000 files") {
		t.Errorf("got %v", err)
	}
	wantNothing(t, s)
}

func TestParseChanges(t *testing.T) {
	config, err := ParseChanges([]string{"ENV A=1\nENV B=$A$A", "workdir a", "WORKDIR b", `CMD echo "hi"`, "EXPOSE $A 5000-5001", "", `ENTRYPOINT ["$A"]`})
	if err != nil || asJSON(config.ImageConfig) != `{"ExposedPorts":{"1/tcp":{},"5000/tcp":{},"5001/tcp":{}},"Env":["A=1","B=11"],"Entrypoint":["$A"],`+
		`"Cmd":["/bin/sh","-c","echo \"hi\""],"WorkingDir":"/a/b"}` {
		t.Errorf("config %s, %v", asJSON(config.ImageConfig), err)
	}
	for change, want := range map[string]string{
		"COPY a b": "COPY is not a valid change command", "FROM x": "FROM is not a valid change command", "EXPOSE 70000": "invalid containerPort",
		"EXPOSE 1/x": "invalid protocol", "EXPOSE 5-4": "invalid containerPort", "HEALTHCHECK": "HEALTHCHECK", "ENV": "ENV", "USER": "USER",
	} {
		if _, err := ParseChanges([]string{change}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gave %v, want %q", change, err, want)
		}
	}
}

// FuzzLoad: whatever the archive says of itself, loading ends, and leaves nothing when it fails.
func FuzzLoad(f *testing.F) {
	var l layout
	one := l.image("amd64", "a")
	l.add(one, map[string]string{ocispec.AnnotationRefName: "app:v1"})
	l.add(l.nest(one), nil)
	config, layer := l.files[1].content, l.files[0].content
	f.Add(asJSON(l.index), `[{"Config":"c.json","RepoTags":["a:b"],"Layers":["l/layer.tar"]}]`, config, layer)
	f.Add("", `[{"Config":"c.json","RepoTags":null,"Layers":["../l"]}]`, config, layer)
	f.Add(`{"manifests":[{"digest":"sha256:","size":-1}]}`, "null", "{}", "")
	f.Fuzz(func(t *testing.T, index, manifest, config, layer string) {
		s := newStore(t)
		files := append([]entry{{"manifest.json", manifest}, {"c.json", config}, {"l/layer.tar", layer}}, l.files...)
		if index != "" {
			files = append(files, entry{"index.json", index})
		}
		images, err := loadBytes(s, tarOf(files...))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("not the archive's fault: %v", err)
			}
			wantNothing(t, s)
			return
		}
		for _, img := range images {
			must(t, s.Check(context.Background(), img.Layers))
			if _, err := s.Dirs(context.Background(), img.Layers); err != nil {
				t.Errorf("%s cannot be unpacked: %v", img.Name, err)
			}
		}
	})
}

// Names take memory, and are bounded: each, and all of them.
func TestLoadOfLongNames(t *testing.T) {
	if testing.Short() {
		t.Skip("long: archives of long names")
	}
	s := newStore(t)
	long := strings.Repeat("d/", 1999)
	for name, data := range map[string][]byte{
		"a name in the archive has":     tarOf(entry{long + long + "x", ""}),
		"the names in the archive have": tarOf(slices.Repeat([]entry{{long + "x", ""}}, 9000)...),
	} {
		if _, err := loadBytes(s, data); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("error is %v, want %q", err, name)
		}
	}
}
