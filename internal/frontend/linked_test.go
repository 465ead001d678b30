package frontend

import (
	"testing"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
)

// TestIsLinked: what the frontend that is linked in is, and what is an image.
func TestIsLinked(t *testing.T) {
	digest := "@sha256:4c68376a702446fc3c79af22de146a148bc3367e73c25a5803d453b6b3f722fb"
	for source, want := range map[string]bool{
		"docker/dockerfile": true, "docker/dockerfile:1": true, "docker.io/docker/dockerfile:1.7": true, "docker/dockerfile:1.7.1": true,
		"docker/dockerfile:" + Version(): true, "docker/dockerfile:experimental": true, "docker/dockerfile:1.0-experimental": true,
		"docker/dockerfile-upstream:1.4.0-rc1": true, "dockerfile.v0": true, "docker/dockerfile:latest": true,
		"docker/dockerfile:2": false, "docker/dockerfile:1.999": false, "docker/dockerfile:1-labs": false, "docker/dockerfile:labs": false,
		"docker/dockerfile:1.7.0-labs": false, "docker/dockerfile:master": false, "docker/dockerfile-upstream:master": false,
		"docker/dockerfile" + digest: false, "docker/dockerfile:1" + digest: false, "other/dockerfile:1": false,
		"localhost:5000/docker/dockerfile:1": false, "Docker/Dockerfile:1": false, "": false,
	} {
		if got := isLinked(source); got != want {
			t.Errorf("%q is linked in: %t, want %t", source, got, want)
		}
	}
}

// TestCaps: what is not had is not told of, and everything else is.
func TestCaps(t *testing.T) {
	had := llbCaps()
	for _, c := range pb.Caps.All() {
		why, not := lacking[apicaps.CapID(c.ID)]
		if told := had.Contains(apicaps.CapID(c.ID)); told == not || not && why == "" {
			t.Errorf("%s: told of %t, lacking for %q", c.ID, told, why)
		}
	}
	gateway := gatewayCaps()
	for _, c := range gwpb.Caps.All() {
		if told := gateway.Contains(apicaps.CapID(c.ID)); told != (lacking[apicaps.CapID(c.ID)] == "") {
			t.Errorf("%s: told of %t", c.ID, told)
		}
	}
}
