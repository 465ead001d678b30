package docker

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

var updateZero = flag.Bool("update-zero", false, "write testdata/zero: read afterwards whether it is what dockerd says")

// zeros leaves of a document what it has where nothing is: null, [], {}, "", 0 and false are themselves, others are what kind they are of, once
// where several follow each other.
func zeros(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = zeros(value)
		}
	case []any:
		var some []any
		for _, value := range v {
			if value = zeros(value); len(some) == 0 || !reflect.DeepEqual(value, some[len(some)-1]) {
				some = append(some, value)
			}
		}
		if len(some) > 0 {
			return some
		}
	case string:
		if v != "" {
			return "a string"
		}
	case float64:
		if v != 0 {
			return "a number"
		}
	}
	return v
}

// TestZeroValues: where nothing is, each answer has what dockerd's has: null, [], {} or nothing at all, by which typed clients break. The files in
// testdata/zero follow from dockerd's sources (moby 29): slices that nobody has made are null.
func TestZeroValues(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	l := newContainers(t)
	if status := l.post("/containers/create?name=zero", `{"Image":"busybox","Cmd":["true"]}`); status != http.StatusCreated {
		t.Fatalf("creating a container: %d", status)
	}
	l.post("/volumes/create", `{"Name":"zero"}`)
	l.post("/networks/create", `{"Name":"zero"}`)
	for _, c := range []struct{ file, method, path string }{
		{"container", http.MethodGet, "/containers/zero/json"}, {"containers", http.MethodGet, "/containers/json?all=1"}, {"changes", http.MethodGet, "/containers/zero/changes"},
		{"no-containers", http.MethodGet, "/containers/json"}, {"image", http.MethodGet, "/images/busybox/json"}, {"image-1.51", http.MethodGet, "/v1.51/images/busybox/json"},
		{"images", http.MethodGet, "/images/json"}, {"no-images", http.MethodGet, "/images/json?filters={\"reference\":[\"nosuch\"]}"}, {"history", http.MethodGet, "/images/busybox/history"},
		{"volume", http.MethodGet, "/volumes/zero"}, {"volumes", http.MethodGet, "/volumes"}, {"no-volumes", http.MethodGet, "/volumes?filters={\"name\":[\"nosuch\"]}"},
		{"network", http.MethodGet, "/networks/zero"}, {"network-host", http.MethodGet, "/networks/host"}, {"no-networks", http.MethodGet, "/networks?filters={\"name\":[\"nosuch\"]}"}, {"plugins", http.MethodGet, "/plugins"},
		{"info", http.MethodGet, "/info"}, {"version", http.MethodGet, "/version"}, {"df", http.MethodGet, "/v1.51/system/df"},
		{"prune-images", http.MethodPost, "/images/prune"}, {"prune-volumes", http.MethodPost, "/volumes/prune"}, {"prune-networks", http.MethodPost, "/networks/prune?filters={\"label\":[\"x\"]}"},
		{"prune-containers", http.MethodPost, "/containers/prune?filters={\"label\":[\"x\"]}"}, {"prune-builds", http.MethodPost, "/build/prune"}, {"error", http.MethodGet, "/containers/nosuch/json"},
	} {
		doc, _ := l.get(c.method, c.path)
		var got bytes.Buffer
		e := json.NewEncoder(&got)
		e.SetIndent("", "  ")
		must(t, e.Encode(zeros(doc)))
		file := filepath.Join("testdata", "zero", c.file+".json")
		if *updateZero {
			must(t, os.MkdirAll(filepath.Dir(file), 0o755))
			must(t, os.WriteFile(file, got.Bytes(), 0o644))
		}
		want, err := os.ReadFile(file)
		must(t, err)
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not as %s has it:\n%s", c.path, file, got.Bytes())
		}
	}
}
