package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// What a failed step leaves behind is a container, if its build wants that ([Request.KeepFailed]), until another build of the same Dockerfile
// has ended. A client's builds keep nothing: a client looks into steps by containers of its own, while its build runs.

// slot is the name of the container that is kept of builds of the same Dockerfile: "failed-app-1a2b3c4d", of the name of the context's directory.
func (b *building) slot() string {
	name := b.record.File + "\n" + b.record.Context
	const alnum = "abcdefghijklmnopqrstuvwxyz0123456789"
	base := strings.Map(func(r rune) rune {
		if strings.ContainsRune(alnum, r) {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimSuffix(filepath.Base(b.record.Context), ".git")))
	if base = strings.Trim(base[:min(len(base), 24)], "-"); base != "" {
		base += "-"
	}
	return "failed-" + base + digest.FromString(name).Encoded()[:8]
}

// keepFailed keeps the step that ended the builds, if the build wants it that the step is of.
func (j *job) keepFailed(ctx context.Context, err error) {
	var failed *engine.ExecError
	b := j.first
	if b == nil || !b.req.KeepFailed || !errors.As(err, &failed) || failed.Step == nil {
		return
	}
	m := container.Manager{Store: b.opt.Store}
	k := keptStep(failed.Step, err)
	k.Slot = b.slot()
	if !b.record.forget {
		k.Build = b.record.ID
	}
	var name string
	kerr := b.opt.Store.Again(ctx, b.opt.Store.Root(), func() error {
		c, err := m.KeepStep(ctx, k)
		name = c.Name
		return err
	})
	if kerr != nil {
		b.say(fmt.Sprintf("WARNING: the failed step is not kept: %v", kerr))
		return
	}
	b.record.Kept = name
}

// forgetFailed removes what is kept of earlier builds of the Dockerfiles, for each that has ended by itself. What has been kept now has
// taken the place of that, and perhaps what yet another build keeps has taken its own since then.
func (j *job) forgetFailed(ctx context.Context) error {
	kept := map[string]bool{}
	for _, b := range j.all {
		if b.record.Kept != "" {
			kept[b.slot()] = true
		}
	}
	m := container.Manager{Store: j.opt.Store}
	var errs []error
	for _, b := range j.all {
		ended := b.run != nil && (b.done != nil || b == j.first)
		if b.req.Client == nil && b.req.Call == "" && ended && !kept[b.slot()] {
			errs = append(errs, m.ForgetSteps(context.WithoutCancel(ctx), b.slot()))
		}
	}
	return errors.Join(errs...)
}

// keptStep is a failed step as a container is made of it.
func keptStep(s *engine.FailedStep, err error) *container.KeptStep {
	k := &container.KeptStep{
		Step: container.Step{Name: s.Name, MaxProcesses: s.Spec.MaxProcesses, KeepCaps: s.Spec.KeepCaps},
		Spec: s.Spec, Platform: s.Platform, Base: s.Root.Layers, ReadOnly: s.ReadOnly, Started: s.Started, Err: err,
	}
	if s.Root.Changed != nil {
		k.Begin = append(k.Begin, store.Adopted{Name: "fs", Draft: s.Root.Changed})
	}
	for _, v := range s.SecretEnv {
		k.SecretEnv = append(k.SecretEnv, container.StepSecret{ID: v.ID, Env: v.Name})
	}
	for i, m := range s.Mounts {
		k.Mounts = append(k.Mounts, keptMount(k, &m, fmt.Sprintf("mount-%d", i)))
	}
	return k
}

// keptMount is a mount of it; what it has of its own is adopted by a name.
func keptMount(k *container.KeptStep, m *engine.StepMount, name string) container.StepMount {
	kept := container.StepMount{Dest: m.Dest}
	switch m.MountType {
	case pb.MountType_SECRET:
		kept.Secret = keptSecret(m.SecretOpt)
		return kept
	case pb.MountType_SSH:
		kept.SSH = keptSecret(m.SSHOpt)
		return kept
	case pb.MountType_TMPFS:
		kept.Tmpfs = &sandbox.Tmpfs{Size: m.TmpfsOpt.GetSize()}
	case pb.MountType_CACHE:
		kept.Cache = &container.StepCache{ID: m.Cache, Sharing: m.Sharing}
		kept.Selector = m.Selector
	default:
		kept.Selector = m.Selector
	}
	kept.ReadOnly, kept.Layers = m.Readonly, m.Files.Layers
	for _, own := range []struct {
		draft *store.Draft
		as    *string
		kind  string
	}{{m.Files.Copied, &kept.Copied, "-files"}, {m.Files.Changed, &kept.Changed, "-changes"}} {
		if own.draft != nil {
			*own.as = name + own.kind
			k.Begin = append(k.Begin, store.Adopted{Name: *own.as, Draft: own.draft})
		}
	}
	return kept
}

// keptSecret is how a secret or an agent is shown.
func keptSecret(o interface {
	GetID() string
	GetMode() uint32
	GetUid() uint32
	GetGid() uint32
}) *container.StepSecret {
	return &container.StepSecret{ID: o.GetID(), Mode: o.GetMode() & 0o777, UID: int(o.GetUid()), GID: int(o.GetGid())}
}
