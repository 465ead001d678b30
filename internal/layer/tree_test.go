package layer_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/layertest"
)

// sample makes a directory with something of everything.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"a/b/c": "1", "a/b/empty": "", "a-b": "2", "a/x": "3", "z": "4"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "a", "a/up": "..", "a/file": "x"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "z"), filepath.Join(dir, "a", "z")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTrees(t *testing.T) {
	dir := layer.OpenDir(sample(t), layer.DirOptions{})
	filtered, err := layer.Filter(dir, layer.FilterOpt{Exclude: []string{"a/b", "!a/b/c"}})
	if err != nil {
		t.Fatal(err)
	}
	var blob bytes.Buffer
	tw, index := layer.NewIndexedTarWriter(&blob, "")
	if err := layer.WalkLayer(sample(t), tw); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var data bytes.Buffer
	if _, err := index.WriteTo(&data); err != nil {
		t.Fatal(err)
	}
	decoded, err := layer.ReadIndex(bytes.NewReader(data.Bytes()), int64(data.Len()))
	if err != nil {
		t.Fatal(err)
	}
	indexed := decoded.Tree(func(e *layer.IndexEntry) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(bytes.NewReader(blob.Bytes()), e.Offset, e.Size)), nil
	})
	for name, tree := range map[string]layer.Tree{
		"directory": dir,
		"merged":    layer.Merged([]layer.Tree{dir, layer.OpenDir(sample(t), layer.DirOptions{})}),
		"empty":     layer.Merged(nil),
		"filtered":  filtered,
		"indexed":   indexed,
	} {
		t.Run(name, func(t *testing.T) { layertest.Tree(t, tree) })
	}
}
