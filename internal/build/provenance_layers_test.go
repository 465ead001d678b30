package build_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
)

// Provenance of the mode max tells which layers of the image are those of which steps, also when the steps are cached.
func TestProvenanceLayers(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox AS base\nFROM base AS a\nRUN echo a > /a\nFROM base\nCOPY --from=a /a /\nRUN echo b > /b\n")
	for _, attrs := range []map[string]string{{}, {}, {"compression": "zstd", "force-compression": "true"}, {"source-date-epoch": "1000"}} {
		dir := h.out("dir")
		attrs["tar"] = "false"
		res, _ := h.build(build.Request{Attest: map[string]string{"provenance": "mode=max"}, Outputs: []build.Output{{Type: build.OutputOCI, Dest: dir, Attrs: attrs}}})
		read := func(d ocispec.Descriptor, v any) {
			data, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", d.Digest.Encoded()))
			must(t, err)
			must(t, json.Unmarshal(data, v))
		}
		var index ocispec.Index
		read(res.Manifest, &index)
		var image, attested ocispec.Manifest
		read(index.Manifests[0], &image)
		read(index.Manifests[1], &attested)
		var statement struct {
			Predicate struct {
				RunDetails struct {
					Metadata struct {
						BuildKitMetadata struct {
							Layers map[string][][]ocispec.Descriptor
						} `json:"buildkit_metadata"`
					}
				}
			}
		}
		read(attested.Layers[0], &statement)
		layers := statement.Predicate.RunDetails.Metadata.BuildKitMetadata.Layers
		var counts []int
		for step, chains := range layers {
			if len(chains) != 1 {
				t.Fatalf("%v: %s has %d chains", attrs, step, len(chains))
			}
			if n := len(chains[0]); n > 1 && !slices.Equal(digests(chains[0]), digests(image.Layers[:n])) {
				t.Errorf("%v: the layers of %s are %v, those of the image %v", attrs, step, chains[0], image.Layers)
			}
			counts = append(counts, len(chains[0]))
		}
		if slices.Sort(counts); !slices.Equal(counts, []int{1, 2, 3}) { // the image, the copy, the last RUN: the other stage is not in the image
			t.Errorf("%v: steps have the layers %v", attrs, layers)
		}
	}
}

func digests(all []ocispec.Descriptor) (sums []digest.Digest) {
	for _, d := range all {
		sums = append(sums, d.Digest)
	}
	return sums
}
