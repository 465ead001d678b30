package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// FailedStep is a process that failed as something that can be run again, or another one in its place. Nothing of it is a secret: what it
// was given of secrets, agents and proxies is named alone. The drafts that its mounts name are the caller's to take until the run is closed.
type FailedStep struct {
	Name     string // "[2/3] RUN make"
	Platform ocispec.Platform
	// Spec says how it was run, without ID, Root and Mounts, and with the environment that its operation has.
	Spec     sandbox.Spec
	Root     FailedMount
	ReadOnly bool // the root
	// Mounts are the others, each after those that it lies in.
	Mounts    []StepMount
	SecretEnv []*pb.SecretEnv
	Started   time.Time
}

// StepMount is a mount of a failed step.
type StepMount struct {
	*pb.Mount
	Dest    string      // absolute
	Files   FailedMount // of a bind mount, and what a cache is filled from
	Cache   string      // the name of a cache mount in the store
	Sharing store.Sharing
}

// step describes a process that failed, whose mounts are shown.
func (x *execution) step(n *node, shown []FailedMount) *FailedStep {
	s := &FailedStep{Name: n.v.Name(), Platform: x.platform, Spec: x.spec, SecretEnv: x.op.Secretenv, Started: x.began}
	s.Spec.ID, s.Spec.Root, s.Spec.Mounts, s.Spec.Env = "", sandbox.Root{}, nil, slices.Clone(x.op.Meta.Env)
	for i, m := range x.op.Mounts {
		if m.Dest == pb.RootMount {
			s.Root, s.ReadOnly = shown[i], shown[i].Changed == nil
			continue
		}
		sm := StepMount{Mount: m, Dest: x.dest(m), Files: shown[i]}
		if m.MountType == pb.MountType_CACHE {
			sm.Sharing, _ = sharingOf(m)
			id, err := x.cacheID(n, m)
			if err != nil {
				continue // it could not have been run
			}
			sm.Cache = id
			v, err := x.input(m)
			if err == nil && !v.local() {
				_, err = x.r.Engine.opt.Store.Dirs(x.ctx, v.Snapshot) // what was only planned is written
				sm.Files.Layers = v.Snapshot
			}
			if err != nil {
				sm.Files.Layers = nil // a cache that is gone begins empty
			}
		}
		s.Mounts = append(s.Mounts, sm)
	}
	slices.SortStableFunc(s.Mounts, func(a, b StepMount) int { return strings.Count(a.Dest, "/") - strings.Count(b.Dest, "/") })
	return s
}
