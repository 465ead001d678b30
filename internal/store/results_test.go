package store

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

func TestResult(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	if _, found, reason, err := s.Result(ctx, "key"); found || reason != "" || err != nil {
		t.Errorf("a result that was never put: %t, %q, %v", found, reason, err)
	}
	base, _, _ := pulled(t, s, map[string]string{"a": "1"})
	want := Result{
		Outputs: []layer.Snapshot{{base, made(t, s, nil)}, nil},
		Created: time.Now().UTC(), Took: time.Second, Lines: []string{"operation exec", "user 0"},
	}
	must(t, s.PutResult(ctx, "key", "slot", want))
	got, found, reason, err := open(t, s.root).Result(ctx, "key")
	if !found || reason != "" || err != nil {
		t.Fatalf("the result was not found: %q, %v", reason, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the result is %+v, want %+v", got, want)
	}
	want.Lines = []string{"another"}
	must(t, s.PutResult(ctx, "key", "slot", want))
	if got, _, _, _ := s.Result(ctx, "key"); !reflect.DeepEqual(got, want) {
		t.Errorf("a replaced result is %+v, want %+v", got, want)
	}
}

// A damaged entry is a miss with a reason, never an error.
func TestDamagedResult(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		name   string
		damage func(t *testing.T, s *Store, base, top layer.ID)
		reason string
	}{
		{"record cut short", func(t *testing.T, s *Store, _, _ layer.ID) {
			_, err := s.db.Exec("UPDATE results SET record=substr(record,1,20)")
			must(t, err)
		}, "its record is damaged"},
		{"record of another kind", func(t *testing.T, s *Store, _, _ layer.ID) {
			_, err := s.db.Exec(`UPDATE results SET record='{"outputs":"x"}'`)
			must(t, err)
		}, "its record is damaged"},
		{"layer directory gone", func(t *testing.T, s *Store, _, top layer.ID) {
			must(t, os.RemoveAll(filepath.Join(s.root, "layers", string(top))))
		}, "its files are gone: layer "},
		{"layer's record gone", func(t *testing.T, s *Store, _, top layer.ID) {
			_, err := s.db.Exec("DELETE FROM layers WHERE id=?", string(top))
			must(t, err)
		}, "its files are gone: layer "},
		{"blob of a layer without a directory gone", func(t *testing.T, s *Store, _, _ layer.ID) {
			for _, b := range blobs(t, s) {
				must(t, os.Remove(b))
			}
		}, "its files are gone: layer "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			base, _, _ := pulled(t, s, map[string]string{"a": "1"})
			top := made(t, s, nil)
			must(t, s.PutResult(ctx, "key", "slot", Result{Outputs: []layer.Snapshot{{base, top}}}))
			if _, found, reason, err := s.Result(ctx, "key"); !found || err != nil {
				t.Fatalf("before the damage: %q, %v", reason, err)
			}
			tt.damage(t, s, base, top)
			_, found, reason, err := s.Result(ctx, "key")
			if found || err != nil || !strings.HasPrefix(reason, tt.reason) {
				t.Errorf("found %t, reason %q, error %v; want the reason %q", found, reason, err, tt.reason)
			}
		})
	}
}

func TestMemo(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	if v, ok, err := s.Memo(ctx, "k"); v != "" || ok || err != nil {
		t.Errorf("a memo that was never put: %q, %t, %v", v, ok, err)
	}
	must(t, s.PutMemo(ctx, "k", "1"))
	must(t, s.PutMemo(ctx, "k", "2"))
	if v, ok, err := s.Memo(ctx, "k"); v != "2" || !ok || err != nil {
		t.Errorf("the memo is %q, %t, %v", v, ok, err)
	}
}
