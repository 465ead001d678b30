package container

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

// TestWalkOfWhatVanishes removes a directory between the moments at which it is found and read.
func TestWalkOfWhatVanishes(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(dir, "gone")
	for _, path := range []string{filepath.Join(gone, "in"), filepath.Join(dir, "stays")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	tree := changing{layer.OpenDir(dir, layer.DirOptions{Overlay: true, Live: true})}
	err := layer.Walk(tree, ".", func(e *layer.Entry) error {
		seen = append(seen, e.Path)
		if e.Path == "gone" {
			return os.RemoveAll(gone)
		}
		return nil
	})
	if want := []string{".", "gone", "stays"}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("saw %q and %v, want %q", seen, err, want)
	}
}
