package controllers

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestReconcile(t *testing.T) {
	dir := t.TempDir()
	c := &Policies{File: filepath.Join(dir, "policies.yaml"), Ledger: filepath.Join(dir, "ledger.json")}
	health := func() int {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		return w.Code
	}
	if _, err := c.Reconcile(); err == nil || health() != http.StatusServiceUnavailable {
		t.Errorf("without a file: got error %v, health %d", err, health())
	}
	declare := func(text string) {
		if err := os.WriteFile(c.File, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	declare("- {name: a, resources: [pods], level: none, retainDays: 1}\n")
	if actions, err := c.Reconcile(); err != nil || len(actions) != 1 || health() != http.StatusOK {
		t.Errorf("first round: got %v, error %v, health %d", actions, err, health())
	}
	if actions, err := c.Reconcile(); err != nil || len(actions) != 0 {
		t.Errorf("second round: got %v, error %v, want nothing to do", actions, err)
	}
	declare("[]\n")
	if actions, err := c.Reconcile(); err != nil || len(actions) != 1 || actions[0].Kind != "delete" {
		t.Errorf("after removal: got %v, error %v, want one deletion", actions, err)
	}
}
