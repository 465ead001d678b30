package environments

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// The table of docs/unprivileged.md stands between these lines.
const (
	tableDocument = "../../docs/unprivileged.md"
	tableBegin    = "<!-- from here to the next mark: written by go test ./hack/environments -run TestDocumentation with UPDATE=1 -->\n"
	tableEnd      = "<!-- end of the table -->\n"
)

// TestDocumentation sees that the table in docs/unprivileged.md is what the table of this package is. UPDATE=1 writes it.
func TestDocumentation(t *testing.T) {
	names, err := Dockerfiles()
	if err != nil {
		t.Fatal(err)
	}
	for env, p := range expected {
		if _, ok := Find(env); !ok {
			t.Errorf("there is no environment %s", env)
		}
		for name := range p.rows {
			if name != "*" && !slices.Contains(names, name) {
				t.Errorf("there is no Dockerfile %s", name)
			}
		}
	}
	data, err := os.ReadFile(tableDocument)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", tableDocument)
	}
	want := before + tableBegin + markdown(t) + tableEnd + after
	if want == string(data) {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("the table in %s is not that of expected_test.go: UPDATE=1 go test -run TestDocumentation writes it", tableDocument)
	}
	if err := os.WriteFile(tableDocument, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func markdown(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| environment | what it is | isolation | not as root's |\n|---|---|---|---|\n")
	for _, e := range Catalogue() {
		p, ok := expected[e.Name]
		if !ok {
			t.Errorf("nothing is expected of %s", e.Name)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", e.Name, e.What, p.mode, strings.Join(otherwise(p), "; "))
	}
	return b.String()
}

// otherwise tells of the Dockerfiles that are not as for root, by reason.
func otherwise(p place) (all []string) {
	reasons := map[string][]string{}
	for name, e := range p.rows {
		if name == "*" {
			name = "all others"
			if len(p.rows) == 2 && p.rows["copy"] == (expectation{}) {
				name = "all but copy"
			}
		}
		if e != (expectation{}) {
			reasons[e.why] = append(reasons[e.why], name)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		slices.Sort(reasons[why])
		all = append(all, strings.Join(reasons[why], ", ")+": "+why)
	}
	return all
}
