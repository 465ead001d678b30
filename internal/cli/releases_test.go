package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

// TestReleases compares what is told of Docker's, buildx' and BuildKit's releases with go.mod.
func TestReleases(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(repository, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		want := map[string]string{
			"github.com/docker/cli": dockerRelease, "github.com/docker/buildx": buildxRelease, "github.com/moby/buildkit": buildKitRelease,
		}[fields[0]]
		if got := strings.TrimSuffix(fields[1], "+incompatible"); want != "" && got != want {
			t.Errorf("go.mod has %s %s, the command line tells of %s", fields[0], got, want)
		} else if want != "" {
			seen++
		}
	}
	if want := "buildkit/" + buildKitRelease; !strings.Contains(httpsource.UserAgent, want) {
		t.Errorf("servers are told %q, want %s in it", httpsource.UserAgent, want)
	}
	if seen < 2 {
		t.Error("go.mod has not the modules that are looked for")
	}
}
