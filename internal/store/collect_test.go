package store

import (
	"context"
	"encoding/json"
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

// layered puts an image of some layers into the store.
func layered(t testing.TB, s *Store, name string, snap ...layer.ID) Image {
	t.Helper()
	ctx := context.Background()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Author: name, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, id := range snap {
		desc, diff, err := s.Blob(ctx, id, layer.Encoding{})
		must(t, err)
		m.Layers, config.RootFS.DiffIDs = append(m.Layers, desc), append(config.RootFS.DiffIDs, diff)
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		must(t, err)
		desc, err := s.PutBlob(ctx, mediaType, data)
		must(t, err)
		return desc
	}
	m.Config = put(ocispec.MediaTypeImageConfig, config)
	img := Image{Name: "docker.io/library/" + name, Manifest: put(ocispec.MediaTypeImageManifest, m), ID: m.Config.Digest, Layers: snap}
	must(t, s.SetImages(ctx, img))
	return img
}

func files(content string) map[string]string {
	return map[string]string{content: strings.Repeat(content, 20_000)}
}

func result(t testing.TB, s *Store, key string, snap ...layer.ID) {
	t.Helper()
	must(t, s.PutResult(context.Background(), key, key, Result{Outputs: []layer.Snapshot{snap}, Created: time.Now()}))
}

// wantResults checks which of the results there are, and that what they name is there.
func wantResults(t testing.TB, s *Store, want map[string]bool) {
	t.Helper()
	for key, there := range want {
		_, found, reason, err := s.Result(context.Background(), key)
		if err != nil || found != there || reason != "" {
			t.Errorf("result %s is there: %v (%s), %v, want %v", key, found, reason, err, there)
		}
	}
}

// wantLayers checks of which layers there is a directory and a record, and that no other files are there.
func wantLayers(t testing.TB, s *Store, want ...layer.ID) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.root, "layers"))
	must(t, err)
	var have []layer.ID
	for _, e := range entries {
		have = append(have, layer.ID(e.Name()))
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("directories of layers %q, want %q", have, want)
	}
	for _, id := range want {
		must(t, s.Check(context.Background(), layer.Snapshot{id}))
	}
	wantClean(t, s)
}

// What only a removed image needs goes: layers, blobs, and the results that are its steps. What others need stays.
func TestCollect(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	base, step, other, old := made(t, s, files("base")), made(t, s, files("step")), made(t, s, files("other")), made(t, s, files("old"))
	kept := layered(t, s, "kept:v1", base, step)
	gone := layered(t, s, "gone:v1", base, old)
	result(t, s, "base", base)
	result(t, s, "step", base, step)
	result(t, s, "old", base, old)
	result(t, s, "foreign", base, other) // of a stage that is no image

	if got, err := s.Collect(ctx); err != nil || got != 0 {
		t.Errorf("with everything needed: %d bytes, %v", got, err)
	}
	wantLayers(t, s, base, step, other, old)

	must(t, s.RemoveImages(ctx, gone.Name)) // keeps the cache
	_, err := s.Collect(ctx)
	must(t, err)
	wantResults(t, s, map[string]bool{"base": true, "step": true, "old": true, "foreign": true})
	must(t, s.SetImages(ctx, gone))
	must(t, s.PruneImages(ctx, gone.Name))
	wantResults(t, s, map[string]bool{"base": true, "step": true, "old": false, "foreign": true})
	got, err := s.Collect(ctx)
	// A directory and a blob of the layer, of 60000 bytes each.
	if err != nil || got < 2*60_000 || got > 4*60_000+50_000 {
		t.Errorf("collected %d bytes, %v", got, err)
	}
	wantLayers(t, s, base, step, other)
	wantResults(t, s, map[string]bool{"base": true, "step": true, "old": false, "foreign": true})
	for d, want := range map[digest.Digest]bool{kept.ID: true, kept.Manifest.Digest: true, gone.ID: false, gone.Manifest.Digest: false} {
		if _, err := s.ReadBlob(ctx, d); (err == nil) != want || s.HasBlob(d) != want {
			t.Errorf("blob %s: %v, want it there: %v", d, err, want)
		}
	}
	for _, id := range kept.Layers {
		desc, _, err := s.Blob(ctx, id, layer.Encoding{})
		must(t, err)
		if !s.HasBlob(desc.Digest) {
			t.Errorf("blob of layer %s is gone", id)
		}
	}
}

// A second name keeps an image, a container keeps its layers, a resolved reference its base image.
func TestCollectKeeps(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, b, c, d := made(t, s, files("a")), made(t, s, files("b")), made(t, s, files("c")), made(t, s, files("d"))
	two := layered(t, s, "two:v1", a)
	must(t, s.SetImages(ctx, as(two, "docker.io/library/two:v2")))
	used := layered(t, s, "used:v1", b)
	must(t, s.AddContainer(ctx, Container{ID: "1", Name: "user", ImageID: used.ID, Snapshot: used.Layers}))
	base := layered(t, s, "base:v1", c)
	must(t, s.SetRef(ctx, "docker.io/library/base:v9", "linux/amd64", base.Manifest.Digest))
	must(t, s.PutMemo(ctx, "clamped", string(d)))
	result(t, s, "base", c)
	must(t, s.PruneImages(ctx, two.Name, used.Name, base.Name))
	_, err := s.Collect(ctx)
	must(t, err)
	wantLayers(t, s, a, b, c, d)
	wantResults(t, s, map[string]bool{"base": true})

	// Without these reasons everything goes.
	must(t, s.RemoveContainer(ctx, "1"))
	must(t, s.SetImages(ctx, as(base, "docker.io/library/base:v9")))
	must(t, s.PruneImages(ctx, "docker.io/library/two:v2", "docker.io/library/base:v9"))
	_, err = s.Collect(ctx)
	must(t, err)
	wantLayers(t, s, d)
	wantResults(t, s, map[string]bool{"base": false})
	if blobs, _ := filepath.Glob(filepath.Join(s.root, "blobs", "*", "*")); len(blobs) != 0 {
		t.Errorf("blobs are left: %q", blobs)
	}
}

// All platforms of an index stay with it, and go with it; so does a memo that leads to a layer of it.
func TestCollectIndex(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	a, b := made(t, s, files("a")), made(t, s, files("b"))
	one, two := layered(t, s, "one:v1", a), layered(t, s, "two:v1", b)
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{one.Manifest, two.Manifest, {Digest: digest.FromString("not here"), Size: 1}},
	})
	must(t, err)
	desc, err := s.PutBlob(ctx, ocispec.MediaTypeImageIndex, data)
	must(t, err)
	many := as(one, "docker.io/library/many:v1")
	many.Index = &desc
	must(t, s.SetImages(ctx, many))
	must(t, s.PutMemo(ctx, "clamped", string(b)))
	must(t, s.PruneImages(ctx, one.Name, two.Name))
	_, err = s.Collect(ctx)
	must(t, err)
	wantLayers(t, s, a, b)
	if got, err := s.Image(ctx, "many:v1"); err != nil || got.Target().Digest != desc.Digest || !s.HasBlob(two.Manifest.Digest) {
		t.Errorf("the index is %+v, %v", got, err)
	}
	must(t, s.PruneImages(ctx, many.Name))
	_, err = s.Collect(ctx)
	must(t, err)
	wantLayers(t, s)
}

// Files without a record, as a crash of the machine leaves them, go too.
func TestCollectOrphans(t *testing.T) {
	s := newStore(t)
	id := made(t, s, files("a"))
	result(t, s, "a", id)
	for i, dir := range []string{"layers", "blobs/sha256"} {
		must(t, os.WriteFile(filepath.Join(s.root, dir, fmt.Sprint("orphan", i)), make([]byte, 5000), 0o600))
	}
	if got, err := s.Collect(context.Background()); err != nil || got < 10_000 {
		t.Errorf("collected %d bytes, %v", got, err)
	}
	wantLayers(t, s, id)
}

// Files that have names elsewhere do not count as freed.
func TestDeleteTree(t *testing.T) {
	dir := shm(t)
	must(t, os.MkdirAll(filepath.Join(dir, "tree", "sub"), 0o755))
	write := func(name string) {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 64<<10), 0o600))
	}
	write("tree/own")
	write("tree/twice")
	must(t, os.Link(filepath.Join(dir, "tree/twice"), filepath.Join(dir, "tree/sub/twice")))
	write("outside")
	must(t, os.Link(filepath.Join(dir, "outside"), filepath.Join(dir, "tree/outside")))
	if n, err := deleteTree(filepath.Join(dir, "tree"), time.Time{}); err != nil || n < 128<<10 || n > 150<<10 {
		t.Errorf("freed %d, %v, want two files of 64 KB", n, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "tree")); !os.IsNotExist(err) {
		t.Errorf("the directory is there: %v", err)
	}
}

// What a sweep moves away meanwhile is gone as it should be.
func TestMoveOthersMoved(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "b", "kept"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	err := moveOthers(dir, to, func(name string) bool {
		if name == "a" {
			must(t, os.Remove(filepath.Join(dir, name)))
		}
		return name == "kept"
	})
	left, _ := readDir(dir)
	if moved, _ := readDir(to); err != nil || len(left) != 1 || len(moved) != 1 {
		t.Errorf("%v stays, %v was moved, %v", left, moved, err)
	}
	if err := moveOthers(dir, filepath.Join(to, "none"), func(string) bool { return false }); err == nil {
		t.Error("nothing was moved, and that is no error")
	}
}
