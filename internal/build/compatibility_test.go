package build_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/build"
)

// An older version of BuildKit's images has the formats that were usual then, and provenance tells which version it is.
func TestCompatibility(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
	const docker = "application/vnd.docker.distribution.manifest.v2+json"
	oci := map[string]string{"oci-mediatypes": "true"}
	for _, c := range []struct {
		version int
		out     build.Output
		want    string
	}{
		{0, build.Output{Type: build.OutputImage}, ocispec.MediaTypeImageManifest},
		{30, build.Output{Type: build.OutputImage}, ocispec.MediaTypeImageManifest},
		{20, build.Output{Type: build.OutputImage}, docker},
		{10, build.Output{Type: build.OutputDocker, Dest: h.out("docker.tar")}, docker},
		{10, build.Output{Type: build.OutputImage, Attrs: oci}, ocispec.MediaTypeImageManifest},
		{10, build.Output{Type: build.OutputOCI, Dest: h.out("oci.tar")}, ocispec.MediaTypeImageManifest},
	} {
		res, _ := h.build(build.Request{Compatibility: c.version, Outputs: []build.Output{c.out}})
		if res.Manifest.MediaType != c.want {
			t.Errorf("version %d: %s %v is %s, want %s", c.version, c.out.Type, c.out.Attrs, res.Manifest.MediaType, c.want)
		}
	}
	for version, want := range map[int]string{20: "", 30: "application/vnd.docker.attestation.manifest.v1+json"} {
		dir := h.out("dir")
		res, _ := h.build(build.Request{
			Compatibility: version, Attest: map[string]string{"provenance": "mode=max,version=v1"},
			Outputs: []build.Output{{Type: build.OutputOCI, Dest: dir, Attrs: map[string]string{"tar": "false"}}},
		})
		read := func(d ocispec.Descriptor, v any) {
			data, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", d.Digest.Encoded()))
			must(t, err)
			must(t, json.Unmarshal(data, v))
		}
		var index ocispec.Index
		read(res.Manifest, &index)
		var m ocispec.Manifest
		read(index.Manifests[1], &m)
		if m.ArtifactType != want {
			t.Errorf("version %d: attestations are artifacts of the type %q, want %q", version, m.ArtifactType, want)
		}
		var statement struct {
			Predicate struct {
				BuildDefinition struct {
					ExternalParameters struct {
						Request struct{ CompatibilityVersion int }
					}
				}
			}
		}
		read(m.Layers[0], &statement)
		if got := statement.Predicate.BuildDefinition.ExternalParameters.Request.CompatibilityVersion; got != version {
			t.Errorf("version %d: provenance tells %d", version, got)
		}
	}
	_, _, err := h.try(build.Request{Compatibility: 10, Outputs: []build.Output{{Type: build.OutputOCI, Dest: h.out("zstd"), Attrs: map[string]string{"compression": "zstd"}}}})
	if err == nil || !strings.Contains(err.Error(), "unsupported compatibility-version 10 feature oci exporter compression=zstd") {
		t.Errorf("zstd in version 10 gave %v", err)
	}
}
