package export

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/internal/layer"
)

func TestSupplement(t *testing.T) {
	s := newStore(t)
	src := source(t, s)
	a, err := Assemble(t.Context(), s, []Source{src}, Options{Encoding: layer.Encoding{}})
	must(t, err)
	img := a.Images[0]
	tree, err := s.LayerTree(t.Context(), img.Snapshot[0])
	must(t, err)
	var file string
	must(t, layer.Walk(tree, ".", func(e *layer.Entry) error {
		if e.IsRegular() {
			file = e.Path
		}
		return nil
	}))
	in := `{"spdxVersion":"SPDX-2.3","files":[{"fileName":"/` + file + `","x":1},{"fileName":"/no such"},{"fileName":"` + file + `","comment":"own"},null]}`
	got, err := supplement(t.Context(), s, img, json.RawMessage(in))
	must(t, err)
	for _, want := range []string{`{"comment":"layerID: sha256:`, `"x":1`, `{"fileName":"/no such"}`, `"comment":"own"`, `"Tool: slipway"`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s\nhas no %s", got, want)
		}
	}
	for _, in := range []string{"", "null", "[]", `{"spdxVersion":"SPDX-2.3","files":1}`, `{"name":"fallback"}`, `{"spdxVersion":"SPDX-2.3","files":[{"fileName":1}]}`} {
		if got, err := supplement(t.Context(), s, img, json.RawMessage(in)); err != nil || string(got) != in {
			t.Errorf("%q became %q, %v", in, got, err)
		}
	}
}
