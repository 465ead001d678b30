// Package controllers makes the world as the declared objects say.
package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"example.org/audit-operator/api"
	"example.org/audit-operator/internal/ledger"
)

// Policies reconciles the policies of a file with those in a ledger.
type Policies struct {
	File   string // declared policies, YAML
	Ledger string // applied policies, JSON
	Log    *slog.Logger

	mu     sync.Mutex // guards status
	status Status
}

// Status is the outcome of the last reconciliation.
type Status struct {
	Rounds  int             `json:"rounds"`
	Applied int             `json:"applied"`
	Actions []ledger.Action `json:"actions"`
	Error   string          `json:"error,omitempty"`
}

// Reconcile brings the ledger up to what the file declares, once, and returns what it did.
func (c *Policies) Reconcile() ([]ledger.Action, error) {
	actions, applied, err := c.reconcile()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = Status{Rounds: c.status.Rounds + 1, Applied: applied, Actions: actions}
	if err != nil {
		c.status.Error = err.Error()
	}
	return actions, err
}

func (c *Policies) reconcile() (actions []ledger.Action, applied int, err error) {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return nil, 0, fmt.Errorf("reading declared policies: %w", err)
	}
	declared, err := api.Parse(text)
	if err != nil {
		return nil, 0, err
	}
	l, err := ledger.Load(c.Ledger)
	if err != nil {
		return nil, 0, err
	}
	actions = l.Diff(declared)
	if len(actions) == 0 {
		return nil, len(l), nil
	}
	l.Apply(declared)
	return actions, len(l), l.Save(c.Ledger)
}

// Run reconciles every interval until ctx ends. A failed round is logged and tried again.
func (c *Policies) Run(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		actions, err := c.Reconcile()
		if err != nil {
			c.Log.Error("reconciling policies", "error", err)
		}
		for _, a := range actions {
			c.Log.Info("reconciled", "action", a.Kind, "policy", a.Policy)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ServeHTTP answers /healthz with 200 when the last round succeeded, and /status with its
// outcome in JSON.
func (c *Policies) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	status := c.status
	c.mu.Unlock()
	switch r.URL.Path {
	case "/healthz":
		if status.Rounds == 0 || status.Error != "" {
			http.Error(w, "not reconciled: "+status.Error, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	case "/status":
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status)
	default:
		http.NotFound(w, r)
	}
}
