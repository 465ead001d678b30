package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestManPages reads some of what the pages have to tell, with the characters that mean something on the way.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	plainEnvironment()
	dir := t.TempDir()
	if err := manPages(dir, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"slipway.1":          "<host>/hosts.toml",
		"slipway-build.1":    "--build-context=[]",
		"slipway-image-ls.1": `"slipway 1.2.3"`,
		"slipway-advise.1":   "slipway advise --format patch | patch -p1\n",
		"slipway-serve.1":    "Nov 2023",
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.NewReplacer(`\-`, "-", `\&`, "", `\fB`, "", `\fP`, "").Replace(string(data)); !strings.Contains(text, want) {
			t.Errorf("%s has no %q:\n%s", name, want, text)
		}
	}
}
