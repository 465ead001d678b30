package build

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/distribution/reference"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/progress"
)

// push sends an assembly to the registries that the names are of.
func (b *building) push(ctx context.Context, o *Output, a *export.Assembly, names []string, step *progress.Step) error {
	if b.opt.Registry == nil {
		return errors.New("pushing: this builder has no registry client")
	}
	opt := export.PushOptions{
		ByDigest: o.is("push-by-digest", false),
		Insecure: o.is("registry.insecure", false),
		Progress: func(e export.PushEvent) {
			done := e.State != export.PushWaiting && e.State != export.PushSending
			step.Status(pushStatus(e), e.Sent, e.Desc.Size, done)
		},
		Phase: func(what string, done bool) { step.Status(what, 0, 0, done) },
	}
	names = slices.Clone(names)
	if opt.ByDigest {
		for i, n := range names {
			ref, err := reference.ParseNormalizedNamed(n)
			if err != nil {
				return fmt.Errorf("pushing: %w", err)
			}
			names[i] = ref.Name()
		}
	}
	reg := b.opt.Registry
	if c := b.req.Client; c != nil {
		reg = reg.As(c.Registries())
	}
	return export.Push(ctx, b.opt.Store, reg, a.Target, names, opt)
}

// checkPush finds what cannot be pushed, before anything is done.
func (r *Request) checkPush(o *Output) error {
	if !o.is("push", false) {
		return nil
	}
	names := r.given(*o)
	if len(names) == 0 {
		return errors.New("tag is needed when pushing to registry")
	}
	for _, n := range names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil && o.is("push-by-digest", false) && !reference.IsNameOnly(ref) {
			return fmt.Errorf("can't push tagged ref %s by digest", n)
		}
	}
	return nil
}

// pushStatus is the line of a display for a part that is pushed, in BuildKit's words.
func pushStatus(e export.PushEvent) string {
	if e.State == export.PushMounted {
		return fmt.Sprintf("mounting %s from %s", e.Desc.Digest, e.From)
	}
	return fmt.Sprintf("pushing %s", e.Desc.Digest)
}
