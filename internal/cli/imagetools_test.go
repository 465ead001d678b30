package cli

import (
	"bytes"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/imagetools"
)

// TestInspectionLines: what an index says of a manifest looks like no line of another one.
func TestInspectionLines(t *testing.T) {
	ref, err := imagetools.ParseLocation("example.com/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	const fake = "x\n  Name: y\x1b[2J"
	img := &imagetools.Inspection{Ref: ref, Desc: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, Index: ocispec.Index{Manifests: []ocispec.Descriptor{{
		MediaType: fake, URLs: []string{fake}, Annotations: map[string]string{fake: fake},
		Platform: &ocispec.Platform{OS: fake, Architecture: fake, OSVersion: fake, OSFeatures: []string{fake}},
	}}}}
	var out bytes.Buffer
	if err := printInspection(&out, img); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n  Name:"); n != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%d manifests, want 1, and no control sequence:\n%q", n, out.String())
	}
}
