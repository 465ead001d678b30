package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/store"
)

// An image whose digest is named is that one or none, and one whose layers are limited has no others.
func TestImageAttributes(t *testing.T) {
	reg := registrytest.Start(t)
	layers := []registrytest.Layer{{"one": "1"}, {"two": "2"}}
	index, _ := reg.PushIndex("image:v1", registrytest.Image{Layers: layers})
	s, err := store.Open(shm(t))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	images := imagesource.New(s, registry.New(registry.Options{DockerConfigDir: t.TempDir()}))
	e := New(Options{Store: s, Images: images, Runner: &processes{ran: map[string]int{}}})
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	named := reg.Host + "/image:v1"
	if _, err := images.Resolve(t.Context(), named, platform, imagesource.ResolveDefault); err != nil { // from now on it is known
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opt  llb.ImageOption
		has  string // files, or what an error says
	}{
		{"the digest", llb.WithImageChecksum(index.Digest), "one two"},
		{"another digest", llb.WithImageChecksum(digest.FromString("another")), "does not match expected checksum"},
		{"all layers", llb.WithLayerLimit(2), "one two"},
		{"one layer", llb.WithLayerLimit(1), "one"},
		{"more layers than there are", llb.WithLayerLimit(3), "layer limit 3 is greater than the number of layers in the image 2"},
		{"no layers", llb.WithLayerLimit(0), "invalid layer limit 0"},
		{"nothing", llb.ResolveModeDefault, "one two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := starts(t, e, RunOptions{Platform: platform, Since: time.Now()})
			v, err := r.Result(t.Context(), edgeOf(t, llb.Image(named, tt.opt)))
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				tree, err := r.Tree(t.Context(), v, store.NeedContent)
				must(t, err)
				all, err := tree.ReadDir(".")
				must(t, err)
				for _, e := range all {
					got += e.Path + " "
				}
			}
			if got = strings.TrimSpace(got); got != tt.has && (err == nil || !strings.Contains(got, tt.has)) {
				t.Errorf("it has %q, want %q", got, tt.has)
			}
		})
	}
	// A step on a part of an image is not one on all of it.
	for limit, want := range map[int]string{1: "one", 2: "one two"} {
		r := starts(t, e, RunOptions{Platform: platform})
		v, err := r.Result(t.Context(), edgeOf(t, llb.Scratch().File(llb.Copy(llb.Image(named, llb.WithLayerLimit(limit)), "/*", "/", &llb.CopyInfo{AllowWildcard: true}))))
		must(t, err)
		tree, err := r.Tree(t.Context(), v, store.NeedContent)
		must(t, err)
		var got []string
		must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
			if !e.IsDir() {
				got = append(got, e.Path)
			}
			return nil
		}))
		if strings.Join(got, " ") != want {
			t.Errorf("with %d layers there are %v", limit, got)
		}
	}
}
