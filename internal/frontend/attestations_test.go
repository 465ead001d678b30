package frontend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/registry"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// TestAttestationsAreBounded: what a repository says of attestations is held in memory up to a limit, all of it together, and is what its
// digests say.
func TestAttestationsAreBounded(t *testing.T) {
	reg := registrytest.Start(t)
	ask := func(left int64, change func([]ocispec.Descriptor)) (*sourceresolver.AttestationChain, error) {
		var layers []ocispec.Descriptor
		for i := range 3 {
			d := reg.PushBlob("app", "application/vnd.in-toto+json", bytes.Repeat([]byte{byte('a' + i)}, 1000))
			d.Annotations = map[string]string{"in-toto.io/predicate-type": "wanted"}
			layers = append(layers, d)
		}
		layers[1].Annotations = map[string]string{"in-toto.io/predicate-type": "another"}
		change(layers)
		manifest, err := json.Marshal(ocispec.Manifest{Layers: layers})
		if err != nil {
			t.Fatal(err)
		}
		sum := digest.FromBytes(manifest)
		chain := &sourceresolver.AttestationChain{AttestationManifest: sum, Blobs: map[digest.Digest]sourceresolver.Blob{sum: {Data: manifest}}}
		from := &attesting{reg: registry.New(registry.Options{}), ref: fmt.Sprintf("%s/app@%s", reg.Host, sum), left: left}
		return chain, from.addStatements(t.Context(), chain, []string{"wanted"})
	}
	nothing := func([]ocispec.Descriptor) {}
	chain, err := ask(2000, nothing)
	if err != nil || len(chain.Blobs) != 3 {
		t.Errorf("with as much as there is it has %d blobs, %v", len(chain.Blobs), err)
	}
	for name, tt := range map[string]struct {
		left   int64
		change func([]ocispec.Descriptor)
		want   string
	}{
		"more in all":  {1999, nothing, "have more than"},
		"a giant":      {maxAttestations, func(l []ocispec.Descriptor) { l[0].Size = maxAttestations + 1 }, "have more than"},
		"less claimed": {2000, func(l []ocispec.Descriptor) { l[0].Size = 10 }, "a wrong size"},
		"another":      {2000, func(l []ocispec.Descriptor) { l[0].Digest = digest.FromString("x") }, "not found"},
		"negative":     {2000, func(l []ocispec.Descriptor) { l[0].Size = -1 }, ""},
	} {
		if _, err := ask(tt.left, tt.change); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
