package ledger

import (
	"path/filepath"
	"reflect"
	"testing"

	"example.org/audit-operator/api"
)

func TestDiff(t *testing.T) {
	a := api.Policy{Name: "a", Level: "none", RetainDays: 1}
	b := api.Policy{Name: "b", Level: "none", RetainDays: 1}
	changed := b
	changed.RetainDays = 2
	l := Ledger{"a": a, "b": b}
	got := l.Diff([]api.Policy{{Name: "c"}, changed})
	want := []Action{{Delete, "a"}, {Update, "b"}, {Create, "c"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	l.Apply([]api.Policy{a})
	if got := l.Diff([]api.Policy{a}); got != nil {
		t.Errorf("got %v after applying, want nothing to do", got)
	}
}

func TestSaveAndLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.json")
	empty, err := Load(file)
	if err != nil || len(empty) != 0 {
		t.Fatalf("loading a missing file: got %v, error %v", empty, err)
	}
	l := Ledger{"a": {Name: "a", Resources: []string{"pods"}, Level: "none", RetainDays: 1}}
	if err := l.Save(file); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(file); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("got %v, error %v, want %v", got, err, l)
	}
}
