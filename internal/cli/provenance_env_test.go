package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// What provenance says of where builds run is that of all files of a directory, which may not be there.
func TestProvenanceEnv(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.json": `{"x":"1","y":"1"}`, "b.json": `{"y":"2"}`, "c.txt": "no JSON"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env, err := provenanceEnv(&dir)
	if err != nil || len(env) != 2 || env["x"] != "1" || env["y"] != "2" {
		t.Errorf("it is %v, %v", env, err)
	}
	none := filepath.Join(dir, "none")
	if env, err := provenanceEnv(&none); err != nil || env != nil {
		t.Errorf("without a directory it is %v, %v", env, err)
	}
}
