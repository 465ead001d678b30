package imagesource

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
)

func newSource(t *testing.T) (*Source, *memStore) {
	t.Helper()
	store := newMemStore()
	return New(store, registry.New(registry.Options{DockerConfigDir: t.TempDir()})), store
}

func simple(files ...string) registrytest.Image {
	var img registrytest.Image
	for _, f := range files {
		img.Layers = append(img.Layers, registrytest.Layer{f: "content of " + f})
	}
	return img
}

func mustResolve(t *testing.T, s *Source, ref string, p ocispec.Platform, mode ResolveMode) *Image {
	t.Helper()
	img, err := s.Resolve(t.Context(), ref, p, mode)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func checkError(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if err == nil || !errors.Is(err, kind) {
		t.Fatalf("got %v, want an error of category %q", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not contain %q", err, p)
		}
	}
}

func TestResolve(t *testing.T) {
	r := registrytest.Start(t)
	for _, docker := range []bool{false, true} {
		in := simple("a", "b")
		in.Docker = docker
		in.Config.Env = []string{"A=1"}
		want := r.PushImage("app:v1", in)
		s, store := newSource(t)
		img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
		if img.Digest != want.Desc.Digest || img.Ref != r.Host+"/app:v1" || img.Desc.MediaType != want.Desc.MediaType || img.Desc.Size != want.Desc.Size {
			t.Errorf("got %+v, want %+v", img, want.Desc)
		}
		if len(img.Manifest.Layers) != 2 || len(img.DiffIDs) != 2 || string(img.Config) != string(want.Config) {
			t.Errorf("got %+v", img)
		}
		if got := platforms.FormatAll(img.Platform); got != "linux/amd64" {
			t.Errorf("platform %s", got)
		}
		if got := len(store.digests()); got != 2 {
			t.Errorf("%d blobs are in the store, want manifest and config only", got)
		}
	}
}

// An image that is here is used: no request is made, and none is needed.
func TestResolveOffline(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", simple("a"))
	s, _ := newSource(t)
	first := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	newer := r.PushImage("app:v1", simple("b"))
	r.Requests()
	for _, mode := range []ResolveMode{ResolveDefault, ResolveLocal, ""} {
		if again := mustResolve(t, s, r.Host+"/app:v1", amd64, mode); again.Digest != first.Digest {
			t.Errorf("mode %q: got %s, want %s", mode, again.Digest, first.Digest)
		}
	}
	if got := r.Requests(); len(got) != 0 {
		t.Errorf("requests were made: %v", got)
	}
	if img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolvePull); img.Digest != newer.Desc.Digest {
		t.Errorf("pull gave %s, want the newer %s", img.Digest, newer.Desc.Digest)
	}
	if img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault); img.Digest != newer.Desc.Digest {
		t.Errorf("the newer one is not remembered")
	}
	r.Close()
	mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault)
	_, err := s.Resolve(t.Context(), r.Host+"/app:v1", amd64, ResolvePull)
	checkError(t, err, errdefs.ErrUnavailable, r.Host, "cannot be reached")
	_, err = s.Resolve(t.Context(), r.Host+"/other", amd64, ResolveLocal)
	checkError(t, err, errdefs.ErrNotFound, "other:latest", "not in the local store")
}

func TestResolveDigest(t *testing.T) {
	r := registrytest.Start(t)
	index, pushed := r.PushIndex("app:v1",
		registrytest.Image{Platform: amd64, Layers: simple("a").Layers},
		registrytest.Image{Platform: arm64, Layers: simple("b").Layers})
	s, _ := newSource(t)
	for _, ref := range []string{r.Host + "/app@" + index.Digest.String(), r.Host + "/app:whatever@" + index.Digest.String()} {
		img := mustResolve(t, s, ref, amd64, ResolveDefault)
		if img.Digest != pushed[0].Desc.Digest || img.Ref != ref {
			t.Errorf("got %s %s", img.Ref, img.Digest)
		}
	}
	r.Requests()
	mustResolve(t, s, r.Host+"/app@"+index.Digest.String(), amd64, ResolvePull)
	if got := r.Requests(); len(got) != 0 {
		t.Errorf("a digest that is here was asked for: %v", got)
	}
	// The index is here, the other platform's manifest is not: only that is fetched.
	mustResolve(t, s, r.Host+"/app@"+index.Digest.String(), arm64, ResolveDefault)
	for _, req := range r.Requests() {
		if strings.HasPrefix(req, "HEAD") || strings.Contains(req, index.Digest.String()) {
			t.Errorf("request %s was not needed", req)
		}
	}
	_, err := s.Resolve(t.Context(), r.Host+"/app@sha256:"+strings.Repeat("0", 64), amd64, ResolveDefault)
	checkError(t, err, errdefs.ErrNotFound, "sha256:000")
}

// What a reference names is the index, from the registry and from the store, of each platform; by a name of a
// manifest it is the manifest.
func TestResolveRoot(t *testing.T) {
	r := registrytest.Start(t)
	index, pushed := r.PushIndex("app:v1",
		registrytest.Image{Platform: amd64, Layers: simple("a").Layers},
		registrytest.Image{Platform: arm64, Layers: simple("b").Layers})
	s, _ := newSource(t)
	tagged, manifest := r.Host+"/app:v1", r.Host+"/app@"+pushed[0].Desc.Digest.String()
	for _, mode := range []ResolveMode{ResolveDefault, ResolvePull, ResolveDefault, ResolveLocal} {
		for i, p := range []ocispec.Platform{amd64, arm64} {
			for _, ref := range []string{tagged, tagged + "@" + index.Digest.String()} {
				if img := mustResolve(t, s, ref, p, mode); img.Root != index.Digest || img.Digest != pushed[i].Desc.Digest {
					t.Errorf("mode %s, %s: the image is %s of %s, want %s of %s", mode, ref, img.Digest, img.Root, pushed[i].Desc.Digest, index.Digest)
				}
			}
		}
		if img := mustResolve(t, s, manifest, amd64, mode); img.Root != img.Digest || img.Digest != pushed[0].Desc.Digest {
			t.Errorf("mode %s: %s of %s, want the manifest", mode, img.Digest, img.Root)
		}
	}
}

func TestPlatforms(t *testing.T) {
	r := registrytest.Start(t)
	v7 := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	v6 := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	for _, docker := range []bool{false, true} {
		var in []registrytest.Image
		for _, p := range []ocispec.Platform{v6, amd64, v7, arm64} {
			in = append(in, registrytest.Image{Platform: p, Docker: docker, Layers: simple(platforms.Format(p)).Layers})
		}
		_, pushed := r.PushIndex("app:v1", in...)
		for i, p := range []ocispec.Platform{v6, amd64, v7, arm64} {
			s, store := newSource(t)
			img := mustResolve(t, s, r.Host+"/app:v1", p, ResolveDefault)
			if img.Digest != pushed[i].Desc.Digest || !platforms.OnlyStrict(p).Match(img.Platform) {
				t.Errorf("for %s got %s", platforms.FormatAll(p), platforms.FormatAll(img.Platform))
			}
			if got := len(store.digests()); got != 3 {
				t.Errorf("%d blobs are in the store, want index, manifest and config", got)
			}
		}
		s, _ := newSource(t)
		_, err := s.Resolve(t.Context(), r.Host+"/app:v1", ocispec.Platform{OS: "linux", Architecture: "s390x"}, ResolveDefault)
		checkError(t, err, errdefs.ErrNotFound, "no match for platform in manifest: not found\n  wanted linux/s390x, and the image is for linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64\n  ")
	}
}

// Entries that name no platform are looked into; attestations are never chosen.
func TestIndexWithoutPlatforms(t *testing.T) {
	r := registrytest.Start(t)
	one := r.PushImage("app", registrytest.Image{Platform: arm64, Layers: simple("a").Layers}).Desc
	two := r.PushImage("app", registrytest.Image{Platform: amd64, Layers: simple("b").Layers}).Desc
	att := r.PushImage("app", registrytest.Image{Platform: amd64, Layers: simple("c").Layers}).Desc
	one.Platform, two.Platform = nil, nil
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{att, one, two}}
	index.SchemaVersion = 2
	r.PushManifest("app", "v1", index.MediaType, asJSON(index))
	s, _ := newSource(t)
	if img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault); img.Digest != two.Digest {
		t.Errorf("got %s, want %s", img.Digest, two.Digest)
	}
	_, err := s.Resolve(t.Context(), r.Host+"/app:v1", ocispec.Platform{OS: "linux", Architecture: "s390x"}, ResolveDefault)
	checkError(t, err, errdefs.ErrNotFound, "is for linux/amd64, linux/arm64")
}

func TestLocalImageWins(t *testing.T) {
	r := registrytest.Start(t)
	mine := r.PushImage("mine:v1", simple("mine"))
	theirs := r.PushImage("app:v1", simple("theirs"))
	s, store := newSource(t)
	mustResolve(t, s, r.Host+"/mine:v1", amd64, ResolveDefault) // brings it into the store
	store.locals[r.Host+"/app:v1"] = mine.Desc.Digest
	r.Requests()
	if img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolveDefault); img.Digest != mine.Desc.Digest || len(r.Requests()) != 0 {
		t.Errorf("got %s, want the local image without a request", img.Digest)
	}
	if img := mustResolve(t, s, r.Host+"/app:v1", amd64, ResolvePull); img.Digest != theirs.Desc.Digest {
		t.Errorf("pull gave %s, want the registry's", img.Digest)
	}
	// For another platform the local one is of no use.
	_, err := s.Resolve(t.Context(), r.Host+"/app:v1", arm64, ResolveLocal)
	checkError(t, err, errdefs.ErrNotFound, "the one in the local store is for linux/amd64, not linux/arm64")
	store.locals[r.Host+"/none:v1"] = mine.Desc.Digest
	_, err = s.Resolve(t.Context(), r.Host+"/none:v1", arm64, ResolveDefault)
	checkError(t, err, errdefs.ErrNotFound, "/none:v1: not found", "is for linux/amd64, not linux/arm64")
}

// What is remembered but damaged or gone is a miss.
func TestDamagedStore(t *testing.T) {
	r := registrytest.Start(t)
	want := r.PushImage("app:v1", simple("a"))
	s, store := newSource(t)
	ref := r.Host + "/app:v1"
	pinned := ref + "@" + want.Desc.Digest.String()
	mustResolve(t, s, ref, amd64, ResolveDefault)
	for _, d := range []ocispec.Descriptor{want.Desc, want.Manifest.Config} {
		for _, name := range []string{ref, pinned} {
			store.damage(d.Digest)
			_, err := s.Resolve(t.Context(), name, amd64, ResolveLocal)
			checkError(t, err, errdefs.ErrNotFound, "not in the local store", d.Digest.String())
			mustResolve(t, s, name, amd64, ResolveDefault)
			mustResolve(t, s, name, amd64, ResolveLocal) // it was replaced
		}
		store.mu.Lock()
		delete(store.blobs, d.Digest)
		store.mu.Unlock()
		mustResolve(t, s, ref, amd64, ResolveDefault)
	}
}

func TestResolveOnce(t *testing.T) {
	r := registrytest.Start(t)
	r.PushImage("app:v1", simple("a"))
	s, _ := newSource(t)
	release := make(chan struct{})
	r.Use(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		<-release
		next.ServeHTTP(w, req)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := s.Resolve(t.Context(), r.Host+"/app:v1", amd64, ResolvePull); err != nil {
				t.Error(err)
			}
		}()
	}
	for len(r.Requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	heads := 0
	for _, req := range r.Requests() {
		if strings.HasPrefix(req, "HEAD") {
			heads++
		}
	}
	if heads > 1 { // the first was read above; a call that came late may ask again
		t.Errorf("asked %d times more", heads)
	}
}

func TestBadMode(t *testing.T) {
	s, _ := newSource(t)
	_, err := s.Resolve(t.Context(), "alpine", amd64, "sometimes")
	checkError(t, err, errdefs.ErrInvalidArgument, `"sometimes"`)
	_, err = s.Resolve(t.Context(), "Not A Ref", amd64, "")
	checkError(t, err, errdefs.ErrInvalidArgument)
}

func TestDefaultPlatform(t *testing.T) {
	r := registrytest.Start(t)
	r.PushIndex("app:v1", registrytest.Image{Platform: amd64}, registrytest.Image{Platform: arm64})
	s, _ := newSource(t)
	img := mustResolve(t, s, r.Host+"/app:v1", ocispec.Platform{}, ResolveDefault)
	if !slices.Contains([]string{amd64.Architecture, arm64.Architecture}, img.Platform.Architecture) || !platforms.Default().Match(img.Platform) {
		t.Errorf("got %s", platforms.FormatAll(img.Platform))
	}
}
