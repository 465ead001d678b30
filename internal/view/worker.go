package view

import (
	"os"
	"time"

	"github.com/slipway-build/slipway/internal/store"
)

// Worker is this machine with a store, as something that builds.
type Worker struct {
	Labels   map[string]string
	Policies []Policy // what goes of the cache by itself
}

// Policy is a [store.Policy] on the store's disk: its space is in bytes.
type Policy struct {
	All          bool
	Filter       []string
	KeepDuration time.Duration

	ReservedSpace int64
	MaxUsedSpace  int64
	MinFreeSpace  int64
}

// NewWorker describes this machine with a store, of which the policies let go.
func NewWorker(s *store.Store, version string, policies []store.Policy) (*Worker, error) {
	disk, _, err := s.Disk()
	if err != nil {
		return nil, err
	}
	w := &Worker{Labels: map[string]string{
		"org.mobyproject.buildkit.worker.executor": "slipway",
		"slipway.store":   s.Root(),
		"slipway.version": version,
	}}
	if host, err := os.Hostname(); err == nil {
		w.Labels["org.mobyproject.buildkit.worker.hostname"] = host
	}
	for _, p := range policies {
		w.Policies = append(w.Policies, Policy{
			All: p.All, Filter: p.Filters, KeepDuration: p.KeepDuration,
			ReservedSpace: p.ReservedSpace.Of(disk), MaxUsedSpace: p.MaxUsedSpace.Of(disk), MinFreeSpace: p.MinFreeSpace.Of(disk),
		})
	}
	return w, nil
}
