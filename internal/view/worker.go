package view

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/store"
)

// Worker is this machine with a store, as something that builds.
type Worker struct {
	ID        string // the same for whoever builds with the store
	Labels    map[string]string
	Platforms []ocispec.Platform
	Policies  []Policy // what goes of the cache by itself
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

// WorkerOptions are what a store does not know of a worker.
type WorkerOptions struct {
	Version   string
	Labels    map[string]string // beside, or in the place of, those that every worker has
	Platforms []ocispec.Platform
	Policies  []store.Policy
}

// NewWorker describes this machine with a store, of which the policies let go.
func NewWorker(s *store.Store, opt WorkerOptions) (*Worker, error) {
	disk, _, err := s.Disk()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256([]byte(host + "\n" + s.Root()))
	const label = "org.mobyproject.buildkit.worker."
	w := &Worker{ID: hex.EncodeToString(id[:])[:25], Platforms: opt.Platforms, Labels: map[string]string{
		label + "executor": "slipway", label + "hostname": host, label + "snapshotter": "overlayfs", label + "oci.process-mode": "sandbox",
		label + "selinux.enabled": "false", "slipway.store": s.Root(), "slipway.version": opt.Version,
	}}
	maps.Copy(w.Labels, opt.Labels)
	for _, p := range opt.Policies {
		w.Policies = append(w.Policies, Policy{
			All: p.All, Filter: p.Filters, KeepDuration: p.KeepDuration,
			ReservedSpace: p.ReservedSpace.Of(disk), MaxUsedSpace: p.MaxUsedSpace.Of(disk), MinFreeSpace: p.MinFreeSpace.Of(disk),
		})
	}
	return w, nil
}
