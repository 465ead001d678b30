package frontend

import (
	"sync"

	dockerfile "github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/version"
)

// buildkitRelease is the release of BuildKit that is linked, as go.mod has it. BuildKit's own builds
// are told by their linker.
const buildkitRelease = "v0.34.2"

// Version is that of the Dockerfile frontend, "1.28.0".
var Version = sync.OnceValue(func() string {
	version.Version = buildkitRelease
	return dockerfile.Version()
})
