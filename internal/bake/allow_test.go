package bake

import (
	"path/filepath"
	"slices"
	"testing"

	buildx "github.com/docker/buildx/build"
	"github.com/moby/buildkit/client/llb"

	"github.com/slipway-build/slipway/internal/build"
)

// TestDockerfileBesideRemoteContext: a Dockerfile of this machine is asked for with each kind of context of a remote definition.
func TestDockerfileBesideRemoteContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Dockerfile")
	d := &Definition{source: &Source{}, options: map[string]buildx.Options{"app": {Inputs: buildx.Inputs{
		ContextPath: "https://example.com/app.git#:sub", ContextState: &llb.State{}, DockerfilePath: file,
	}}}}
	o := d.options["app"]
	var r build.Request
	if err := d.setInputs(t.Context(), &r, o.Inputs); err != nil {
		t.Fatal(err)
	}
	if read, _, _ := paths(&r, &o); !slices.Equal(read, []string{file}) {
		t.Errorf("reads %q, want %s", read, file)
	}
	wanted, err := d.opened(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	missing, err := d.entitlement.Validate(wanted)
	if err != nil || len(missing.FSRead) != 1 {
		t.Errorf("asks for %q (%v), want the directory of %s", missing.FSRead, err, file)
	}
}
