package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
)

// newImage puts an image of one file into the store and returns its nameless record. age is how
// long ago it was made.
func newImage(t testing.TB, s *Store, content string, age time.Duration) Image {
	t.Helper()
	ctx := context.Background()
	id := made(t, s, map[string]string{"file": content})
	desc, diff, err := s.Blob(ctx, id, layer.Encoding{})
	must(t, err)
	created := time.Now().Add(-age).UTC()
	config, err := json.Marshal(ocispec.Image{
		Created: &created, Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		Config: ocispec.ImageConfig{Labels: map[string]string{"content": content}},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}},
	})
	must(t, err)
	cdesc, err := s.PutBlob(ctx, ocispec.MediaTypeImageConfig, config)
	must(t, err)
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cdesc, Layers: []ocispec.Descriptor{desc},
	})
	must(t, err)
	mdesc, err := s.PutBlob(ctx, ocispec.MediaTypeImageManifest, manifest)
	must(t, err)
	return Image{Name: cdesc.Digest.String(), Manifest: mdesc, ID: cdesc.Digest, Created: created, Size: int64(len(content))}
}

func as(img Image, name string) Image {
	img.Name = name
	return img
}

// names lists the images as "repo:tag=content", nameless ones as "<none>=content".
func names(t *testing.T, s *Store) string {
	t.Helper()
	all, err := s.Images(context.Background())
	must(t, err)
	var out []string
	for _, img := range all {
		data, err := s.ReadBlob(context.Background(), img.ID)
		must(t, err)
		var config ocispec.Image
		must(t, json.Unmarshal(data, &config))
		name := "<none>"
		if img.Tagged() {
			repo, tag := FamiliarName(img.Name)
			name = repo + ":" + tag
		}
		out = append(out, name+"="+config.Config.Labels["content"])
	}
	return strings.Join(out, " ")
}

func wantNames(t *testing.T, s *Store, want string) {
	t.Helper()
	if got := names(t, s); got != want {
		t.Errorf("images are %q, want %q", got, want)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"app":                   "docker.io/library/app:latest",
		"app:v1":                "docker.io/library/app:v1",
		"me/app":                "docker.io/me/app:latest",
		"localhost:5000/app:v1": "localhost:5000/app:v1",
		"example.com/a/b/c":     "example.com/a/b/c:latest",
	} {
		got, err := NormalizeName(name)
		if err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", name, got, err, want)
		}
		repo, tag := FamiliarName(got)
		if back, err := NormalizeName(repo + ":" + tag); err != nil || back != want {
			t.Errorf("%s is familiar as %s:%s, which is %s, %v", name, repo, tag, back, err)
		}
	}
	for _, name := range []string{"", "App", "app:", "a b", "-x", strings.Repeat("a", 64)} {
		if got, err := NormalizeName(name); err == nil {
			t.Errorf("the name %q is %q, want an error", name, got)
		}
	}
	if repo, tag := FamiliarName(""); repo != "<none>" || tag != "<none>" {
		t.Errorf("no name is familiar as %s:%s", repo, tag)
	}
}

func TestSetImages(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	one, two, three := newImage(t, s, "1", 3*time.Hour), newImage(t, s, "2", 2*time.Hour), newImage(t, s, "3", time.Hour)
	app, other := "docker.io/library/app:v1", "example.com/other:v2"

	must(t, s.SetImages(ctx, one))
	wantNames(t, s, "<none>=1")
	must(t, s.SetImages(ctx, as(one, app), as(one, other)))
	wantNames(t, s, "app:v1=1 example.com/other:v2=1") // a name supersedes namelessness
	must(t, s.SetImages(ctx, one))
	wantNames(t, s, "app:v1=1 example.com/other:v2=1") // an image that has a name is not nameless too
	must(t, s.SetImages(ctx, as(two, app)))
	wantNames(t, s, "app:v1=2 example.com/other:v2=1") // one name moves, the old image has another one
	must(t, s.SetImages(ctx, as(three, other)))
	wantNames(t, s, "example.com/other:v2=3 app:v1=2 <none>=1") // the last name moves: dangling
	must(t, s.SetImages(ctx, as(one, other)))
	wantNames(t, s, "<none>=3 app:v1=2 example.com/other:v2=1")
	must(t, s.RemoveImages(ctx, other))
	wantNames(t, s, "<none>=3 app:v1=2")
	must(t, s.RemoveImages(ctx, three.ID.String()))
	wantNames(t, s, "app:v1=2")
}

// An image that is built again is made of the layers that it was built of now: those of before may be damaged.
func TestSameImageOfOtherLayers(t *testing.T) {
	s := newStore(t)
	img := as(newImage(t, s, "app", 0), "docker.io/library/app:v1")
	for range 2 {
		img.Layers = layer.Snapshot{made(t, s, map[string]string{"file": "app"})}
		must(t, s.SetImages(t.Context(), img))
		if got, err := s.imageByName(t.Context(), img.Name); err != nil || !slices.Equal(got.Layers, img.Layers) {
			t.Errorf("the image is made of %v, %v, want %v", got.Layers, err, img.Layers)
		}
	}
}

func TestSetImagesIsDurable(t *testing.T) {
	s := newStore(t)
	img := newImage(t, s, "1", 0)
	must(t, s.SetImages(context.Background(), as(img, "docker.io/library/app:v1")))
	for _, table := range bootTables {
		var n int
		must(t, s.db.QueryRow("SELECT count(*) FROM "+table+" WHERE boot!=''").Scan(&n))
		if n > 0 {
			t.Errorf("an image is named while %d %s may not be on the disk", n, table)
		}
	}
}

func TestFindImage(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	img := newImage(t, s, "1", 0)
	must(t, s.SetImages(ctx, as(img, "docker.io/library/app:latest"), as(img, "docker.io/library/app:v1")))
	for _, ref := range []string{"app", "app:v1", "docker.io/library/app", img.ID.String(), img.ID.Encoded(), img.ID.Encoded()[:12], "sha256:" + img.ID.Encoded()[:5]} {
		got, err := s.Image(ctx, ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("image %s is %s, %v", ref, got.ID, err)
		}
		if d, ok := s.LocalImage(ctx, ref); !ok || d != img.Manifest.Digest {
			t.Errorf("local image %s is %s, %t", ref, d, ok)
		}
	}
	for _, ref := range []string{"app:v2", "other", "0000000000", "", "sha256:", "APP", "v1"} {
		if got, err := s.Image(ctx, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("image %q is %s, %v, want ErrNotFound", ref, got.Name, err)
		}
	}
}

func TestAmbiguousImageID(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	byDigit := map[byte]Image{}
	for i := 0; ; i++ {
		img := newImage(t, s, fmt.Sprint(i), 0)
		must(t, s.SetImages(ctx, img))
		digit := img.ID.Encoded()[0]
		first, ok := byDigit[digit]
		if byDigit[digit] = img; !ok {
			continue
		}
		_, err := s.Image(ctx, string(digit))
		wantErr(t, err, "multiple IDs found with provided prefix: "+string(digit))
		n := 1
		for first.ID.Encoded()[:n] == img.ID.Encoded()[:n] {
			n++
		}
		if got, err := s.Image(ctx, img.ID.Encoded()[:n]); err != nil || got.ID != img.ID {
			t.Errorf("with %d digits the image is %s, %v", n, got.ID, err)
		}
		// A name that is also such a prefix wins.
		must(t, s.SetImages(ctx, as(first, "docker.io/library/"+string(digit)+":latest")))
		if got, err := s.Image(ctx, string(digit)); err != nil || got.ID != first.ID {
			t.Errorf("the image named %c is %s, %v", digit, got.ID, err)
		}
		return
	}
}

func TestRefs(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	a, b := digest.FromString("a"), digest.FromString("b")
	must(t, s.SetRef(ctx, "docker.io/library/x:1", "linux/amd64", a))
	must(t, s.SetRef(ctx, "docker.io/library/x:1", "linux/arm64", b))
	if d, ok := s.Ref(ctx, "docker.io/library/x:1", "linux/amd64"); !ok || d != a {
		t.Errorf("the reference is %s, %t", d, ok)
	}
	must(t, s.SetRef(ctx, "docker.io/library/x:1", "linux/amd64", b))
	if d, _ := s.Ref(ctx, "docker.io/library/x:1", "linux/amd64"); d != b {
		t.Errorf("the reference stays %s", d)
	}
	if _, ok := s.Ref(ctx, "docker.io/library/x:2", "linux/amd64"); ok {
		t.Error("a reference that was never set is there")
	}
}

// Other tools read the store as the OCI layout that it is.
func TestStoreIsOCILayout(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	one, two := newImage(t, s, "one", time.Hour), newImage(t, s, "two", 0)
	must(t, s.SetImages(ctx, as(one, "docker.io/library/app:v1"), as(one, "example.com/me/app:v1")))
	must(t, s.SetImages(ctx, two))

	var index ocispec.Index
	data, err := os.ReadFile(filepath.Join(s.root, "index.json"))
	must(t, err)
	must(t, json.Unmarshal(data, &index))
	if index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || len(index.Manifests) != 3 {
		t.Errorf("index.json is %s", data)
	}
	for _, name := range []string{"app:v1", "example.com/me/app:v1"} {
		out := run(t, "skopeo", "inspect", "oci:"+s.root+":"+name)
		if !strings.Contains(out, `"content": "one"`) || !strings.Contains(out, one.Manifest.Digest.String()) {
			t.Errorf("skopeo says of %s:\n%s", name, out)
		}
		bundle := filepath.Join(shm(t), "bundle")
		run(t, "umoci", "unpack", "--image", s.root+":"+name, bundle)
		if got, err := os.ReadFile(filepath.Join(bundle, "rootfs", "file")); err != nil || string(got) != "one" {
			t.Errorf("umoci unpacked %q, %v", got, err)
		}
	}
	must(t, os.Remove(filepath.Join(s.root, "oci-layout"))) // it is made again
	must(t, s.RemoveImages(ctx, "docker.io/library/app:v1"))
	if out := run(t, "umoci", "ls", "--layout", s.root); strings.TrimSpace(out) != "example.com/me/app:v1" {
		t.Errorf("umoci lists %q", out)
	}
}
