package report

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/timing"
)

// What commands give as JSON is what docs/schemas says.
func TestSchemas(t *testing.T) {
	one, _ := example()
	one.Steps[2].Process.Files = &filetrace.Summary{Files: 3, Executed: 1, Listed: 1, Lost: 1, Cut: true}
	other, _ := example()
	other.Steps = other.Steps[:2]
	for file, v := range map[string]any{
		"timing.json": one, "comparison.json": timing.Compare(one, other),
	} {
		schema, err := jsonschema.NewCompiler().Compile("../../docs/schemas/" + file)
		must(t, err)
		data, err := json.Marshal(v)
		must(t, err)
		got, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		must(t, err)
		if err := schema.Validate(got); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		got.(map[string]any)["more"] = true
		if schema.Validate(got) == nil {
			t.Errorf("%s lets everything pass", file)
		}
	}
}
