package cli

// Releases whose words slipway has. A test compares them with go.mod.
const (
	dockerRelease   = "v29.8.2" // of github.com/docker/cli
	buildxRelease   = "v0.36.0"
	buildKitRelease = "v0.34.2" // whose frontend is linked in
)
