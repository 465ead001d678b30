package export

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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func shm(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "slipway-export-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(shm(t), "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// made commits a layer of files.
func made(t testing.TB, s *store.Store, files map[string]string) layer.ID {
	t.Helper()
	d, err := s.NewLayer()
	must(t, err)
	defer d.Abort()
	for n, content := range files {
		must(t, os.WriteFile(filepath.Join(d.FS, n), []byte(content), 0o644))
	}
	id, err := d.Commit(context.Background())
	must(t, err)
	return id
}

// source is an image of three layers, of which one is empty.
func source(t testing.TB, s *store.Store) Source {
	t.Helper()
	return Source{
		Snapshot: layer.Snapshot{made(t, s, map[string]string{"a": "one"}), made(t, s, nil), made(t, s, map[string]string{"b": strings.Repeat("two", 1000)})},
		Config: []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin","A=b"],"Labels":{"key":"value"}},` +
			`"history":[{"created_by":"COPY a"},{"created_by":"RUN true"},{"created_by":"ENV A=b","empty_layer":true},{"created_by":"COPY b"}]}`),
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
	}
}

// skopeo runs skopeo, which the tests need.
func skopeo(t testing.TB, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Fatal("this test needs skopeo: install it (apt-get install skopeo)")
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes()
}

// untar reads an archive whole.
func untar(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		must(t, err)
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s tells when or by whom it was written: %v %d %q", h.Name, h.ModTime, h.Uid, h.Uname)
		}
		if _, ok := files[h.Name]; ok {
			t.Errorf("%s is twice in the archive", h.Name)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func readDir(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[rel], err = os.ReadFile(path)
		return err
	}))
	return files
}

// plain decompresses a layer by its media type, with other libraries than those that wrote it.
func plain(t testing.TB, mediaType string, data []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch mediaType {
	case ocispec.MediaTypeImageLayerGzip:
		r, err = gzip.NewReader(r)
	case ocispec.MediaTypeImageLayerZstd:
		r, err = zstd.NewReader(r)
	case ocispec.MediaTypeImageLayer:
	default:
		t.Fatalf("a layer has the media type %s", mediaType)
	}
	must(t, err)
	out, err := io.ReadAll(r)
	must(t, err)
	return out
}

// checkLayout recomputes every digest and size of an OCI layout and returns the index.
func checkLayout(t testing.TB, files map[string][]byte, img Image) ocispec.Index {
	t.Helper()
	for name, data := range files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digest.FromBytes(data).Encoded() != hex {
			t.Errorf("%s has the digest %s", name, digest.FromBytes(data))
		}
	}
	read := func(desc ocispec.Descriptor) []byte {
		data, ok := files["blobs/sha256/"+desc.Digest.Encoded()]
		if !ok || int64(len(data)) != desc.Size {
			t.Errorf("%s has %d bytes (it is there: %t), want %d", desc.Digest, len(data), ok, desc.Size)
		}
		return data
	}
	var layout ocispec.ImageLayout
	must(t, json.Unmarshal(files["oci-layout"], &layout))
	if layout.Version != "1.0.0" {
		t.Errorf("oci-layout is %s", files["oci-layout"])
	}
	var index ocispec.Index
	must(t, json.Unmarshal(files["index.json"], &index))
	for _, desc := range index.Manifests {
		if desc.Digest != img.Manifest.Digest {
			t.Errorf("index.json names %s, the image is %s", desc.Digest, img.Manifest.Digest)
		}
	}
	var manifest ocispec.Manifest
	must(t, json.Unmarshal(read(img.Manifest), &manifest))
	var config ocispec.Image
	must(t, json.Unmarshal(read(manifest.Config), &config))
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers have %d diff_ids", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for i, desc := range manifest.Layers {
		if got := digest.FromBytes(plain(t, desc.MediaType, read(desc))); got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s, its diff_id is %s", i, got, config.RootFS.DiffIDs[i])
		}
	}
	return index
}

func inspect(t testing.TB, ref string) {
	t.Helper()
	var got struct {
		Labels map[string]string
		Env    []string
		Layers []string
	}
	must(t, json.Unmarshal(skopeo(t, "inspect", ref), &got))
	if got.Labels["key"] != "value" || !slices.Equal(got.Env, []string{"PATH=/bin", "A=b"}) || len(got.Layers) != 3 {
		t.Errorf("skopeo says of %s: %+v", ref, got)
	}
}

var names = []string{"docker.io/library/app:v1", "example.com/me/other:v2"}

func TestArchives(t *testing.T) {
	for _, c := range []layer.Compression{layer.Uncompressed, layer.Gzip, layer.Zstd} {
		for _, docker := range []bool{false, true} {
			t.Run(fmt.Sprintf("compression %s docker %t", c, docker), func(t *testing.T) {
				ctx := context.Background()
				s := newStore(t)
				a, err := Assemble(ctx, s, []Source{source(t, s)}, Options{Encoding: layer.Encoding{Compression: c}})
				must(t, err)
				img := a.Images[0]
				var b, again bytes.Buffer
				must(t, OCIArchive(ctx, s, a, names, docker, &b))
				must(t, OCIArchive(ctx, s, a, names, docker, &again))
				if !bytes.Equal(b.Bytes(), again.Bytes()) {
					t.Error("the same image gave two archives")
				}
				files := untar(t, b.Bytes())
				index := checkLayout(t, files, img)
				if len(index.Manifests) != 2 || index.Manifests[0].Annotations[ocispec.AnnotationRefName] != "v1" ||
					index.Manifests[1].Annotations["io.containerd.image.name"] != names[1] {
					t.Errorf("index.json is %s", files["index.json"])
				}
				path := filepath.Join(shm(t), "image.tar")
				must(t, os.WriteFile(path, b.Bytes(), 0o600))
				inspect(t, "oci-archive:"+path+":v2")
				if _, ok := files["manifest.json"]; ok != docker {
					t.Errorf("there is a manifest.json: %t", ok)
				}
				if docker {
					inspect(t, "docker-archive:"+path+":app:v1")
					inspect(t, "docker-archive:"+path+":example.com/me/other:v2")
					checkDockerManifest(t, files)
				}
			})
		}
	}
}

// checkDockerManifest checks manifest.json against the files that it names.
func checkDockerManifest(t testing.TB, files map[string][]byte) {
	t.Helper()
	var entries []struct {
		Config           string
		RepoTags, Layers []string
	}
	must(t, json.Unmarshal(files["manifest.json"], &entries))
	if len(entries) != 1 || !slices.Equal(entries[0].RepoTags, []string{"app:v1", "example.com/me/other:v2"}) || len(entries[0].Layers) != 3 {
		t.Fatalf("manifest.json is %s", files["manifest.json"])
	}
	for _, name := range append(entries[0].Layers, entries[0].Config) {
		if files[name] == nil {
			t.Errorf("manifest.json names %s, which is not there", name)
		}
	}
}

func TestArchiveWithoutName(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, err := Assemble(ctx, s, []Source{source(t, s)}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}})
	must(t, err)
	img := a.Images[0]
	var b bytes.Buffer
	must(t, OCIArchive(ctx, s, a, nil, true, &b))
	if index := checkLayout(t, untar(t, b.Bytes()), img); len(index.Manifests) != 1 || index.Manifests[0].Annotations != nil {
		t.Errorf("index has %+v", index.Manifests)
	}
	path := filepath.Join(shm(t), "image.tar")
	must(t, os.WriteFile(path, b.Bytes(), 0o600))
	inspect(t, "oci-archive:"+path)
	inspect(t, "docker-archive:"+path)
}

func TestOCIDir(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, err := Assemble(ctx, s, []Source{source(t, s)}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}})
	must(t, err)
	img := a.Images[0]
	dir := filepath.Join(shm(t), "deeper", "layout")
	for range 2 { // also over one that is there
		must(t, OCIDir(ctx, s, a, names, dir))
		checkLayout(t, readDir(t, dir), img)
		inspect(t, "oci:"+dir+":v1")
	}
}

// The same layer twice is one file of the archive.
func TestRepeatedLayer(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	src := source(t, s)
	src.Snapshot[1] = src.Snapshot[0]
	a, err := Assemble(ctx, s, []Source{src}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}})
	must(t, err)
	img := a.Images[0]
	var b bytes.Buffer
	must(t, OCIArchive(ctx, s, a, names, true, &b))
	checkLayout(t, untar(t, b.Bytes()), img)
	if len(img.Layers) != 3 || img.Layers[0].Digest != img.Layers[1].Digest {
		t.Errorf("layers are %v", img.Layers)
	}
}

func TestAssembleTwiceIsTheSame(t *testing.T) {
	s := newStore(t)
	src := source(t, s)
	one := assembled(t, s, []Source{src}, Options{Encoding: layer.Encoding{}})
	two := assembled(t, s, []Source{src}, Options{Encoding: layer.Encoding{}})
	if one.Manifest.Digest != two.Manifest.Digest || one.Config.Digest != two.Config.Digest || one.Size != 3003 {
		t.Errorf("the image is %+v, then %+v", one, two)
	}
	// Compression changes the manifest, not the image's identity.
	gz := assembled(t, s, []Source{src}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}})
	if gz.Config.Digest != one.Config.Digest || gz.Manifest.Digest == one.Manifest.Digest {
		t.Errorf("compressed, config %s became %s and manifest %s %s", one.Config.Digest, gz.Config.Digest, one.Manifest.Digest, gz.Manifest.Digest)
	}
	if one.Manifest.Platform == nil || one.Manifest.Platform.Architecture != "amd64" {
		t.Errorf("the manifest's platform is %v", one.Manifest.Platform)
	}
}

// assembled is the only image of an assembly.
func assembled(t testing.TB, s *store.Store, sources []Source, opt Options) Image {
	t.Helper()
	a, err := Assemble(context.Background(), s, sources, opt)
	must(t, err)
	if a.IsIndex() {
		t.Errorf("one image gave an index, %v", a.Target)
	}
	return a.Images[0]
}

func TestAssembleFails(t *testing.T) {
	s := newStore(t)
	src := source(t, s)
	src.Snapshot = append(src.Snapshot, "nope")
	if _, err := Assemble(context.Background(), s, []Source{src}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown layer gave %v", err)
	}
	src = source(t, s)
	src.Config = nil
	if _, err := Assemble(context.Background(), s, []Source{src}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}}); err == nil || !strings.Contains(err.Error(), "exporting config") {
		t.Errorf("no config gave %v", err)
	}
}

// fullDisk fails after some bytes.
type fullDisk struct{ left int }

var errFull = errors.New("disk is full")

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestArchiveFails(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	src := source(t, s)
	a, err := Assemble(ctx, s, []Source{src}, Options{Encoding: layer.Encoding{}})
	must(t, err)
	img := a.Images[0]
	var whole bytes.Buffer
	must(t, OCIArchive(ctx, s, a, names, true, &whole))
	for n := 0; n < whole.Len(); n += 700 {
		if err := OCIArchive(ctx, s, a, names, true, &fullDisk{left: n}); !errors.Is(err, errFull) {
			t.Errorf("a disk of %d bytes gave %v", n, err)
		}
	}
	if err := Tar(one(treeOf(t, s, src.Snapshot...)), false, &fullDisk{left: 1000}); !errors.Is(err, errFull) {
		t.Errorf("a full disk gave %v", err)
	}
	cancelled, cancel := context.WithCancelCause(ctx)
	cancel(errFull)
	if err := OCIArchive(cancelled, s, a, names, false, io.Discard); !errors.Is(err, errFull) {
		t.Errorf("a cancelled export gave %v", err)
	}
	// A damaged layer never ends up in an archive that looks whole.
	blob := filepath.Join(s.Root(), "blobs", "sha256", img.Layers[1].Digest.Encoded())
	data, err := os.ReadFile(blob)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(blob, data, 0o600))
	if err := OCIArchive(ctx, s, a, names, false, io.Discard); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("a damaged layer gave %v", err)
	}
}

// Whoever is handed the blobs of an image gets all of them, each after those that it names, and may refuse.
func TestOCIBlobs(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, err := Assemble(ctx, s, []Source{source(t, s)}, Options{Encoding: layer.Encoding{Compression: layer.Gzip}})
	must(t, err)
	var got []ocispec.Descriptor
	must(t, OCIBlobs(ctx, s, a, func(_ context.Context, desc ocispec.Descriptor, r io.Reader) error {
		got = append(got, desc)
		data, err := io.ReadAll(r)
		if digest.FromBytes(data) != desc.Digest {
			t.Errorf("blob %s has other content", desc.Digest)
		}
		return err
	}))
	if len(got) != 5 || got[4].Digest != a.Target.Digest {
		t.Errorf("got %v", got)
	}
	refused := errors.New("no room")
	if err := OCIBlobs(ctx, s, a, func(context.Context, ocispec.Descriptor, io.Reader) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("what refuses them: %v", err)
	}
}
