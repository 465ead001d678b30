package engine

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// A source may want the first layers of an image only, and a certain image; others have it whole.
func TestWantedOfImages(t *testing.T) {
	root := digest.FromString("root")
	img := &imagesource.Image{Ref: "docker.io/library/a:latest", Root: root, DiffIDs: []digest.Digest{"one", "two", "three"}}
	for _, d := range img.DiffIDs {
		img.Manifest.Layers = append(img.Manifest.Layers, ocispec.Descriptor{Digest: d})
	}
	of := func(identifier string, attrs map[string]string) (*imagesource.Image, error) {
		w, err := wantedOf(&pb.SourceOp{Identifier: identifier, Attrs: attrs})
		if err != nil {
			return nil, err
		}
		return w.of(img)
	}
	for _, c := range []struct {
		identifier, attr, value string
		layers                  int
		err                     string
	}{
		{schemeImage + "a", "none", "", 3, ""},
		{schemeImage + "a", pb.AttrImageLayerLimit, "2", 2, ""},
		{schemeImage + "a", pb.AttrImageLayerLimit, "3", 3, ""},
		{schemeImage + "a", pb.AttrImageLayerLimit, "4", 0, "layer limit 4 is greater than the number of layers in the image 3"},
		{schemeImage + "a", pb.AttrImageLayerLimit, "0", 0, "invalid layer limit 0"},
		{schemeImage + "a", pb.AttrImageLayerLimit, "x", 0, "invalid layer limit x"},
		{schemeImage + "a", pb.AttrOCILayoutLayerLimit, "1", 3, ""},
		{schemeLayout + "a", pb.AttrOCILayoutLayerLimit, "1", 1, ""},
		{schemeImage + "a", pb.AttrImageChecksum, root.String(), 3, ""},
		{schemeImage + "a", pb.AttrImageChecksum, digest.FromString("other").String(), 0, "does not match expected checksum"},
		{schemeImage + "a", pb.AttrImageChecksum, "x", 0, "invalid image checksum x"},
	} {
		got, err := of(c.identifier, map[string]string{c.attr: c.value})
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s=%s: %v, want %s", c.attr, c.value, err, c.err)
			}
		case err != nil:
			t.Errorf("%s=%s: %v", c.attr, c.value, err)
		case len(got.DiffIDs) != c.layers || len(got.Manifest.Layers) != c.layers:
			t.Errorf("%s=%s: %d layers, want %d", c.attr, c.value, len(got.DiffIDs), c.layers)
		}
	}
	if len(img.DiffIDs) != 3 {
		t.Error("others lost layers")
	}
}
