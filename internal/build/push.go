package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/progress"
)

// push sends an assembly to the registries that its names are of.
func (b *building) push(ctx context.Context, o *Output, a *export.Assembly, step *progress.Step) error {
	if b.opt.Registry == nil {
		return errors.New("pushing: this builder has no registry client")
	}
	opt := export.PushOptions{
		ByDigest: o.is("push-by-digest", false),
		Progress: func(e export.PushEvent) {
			done := e.State != export.PushWaiting && e.State != export.PushSending
			step.Status(pushStatus(e), e.Sent, e.Desc.Size, done)
		},
	}
	return export.Push(ctx, b.opt.Store, b.opt.Registry, a.Target, b.names, opt)
}

// pushStatus is the line of a display for a part that is pushed, in BuildKit's words.
func pushStatus(e export.PushEvent) string {
	if e.State == export.PushMounted {
		return fmt.Sprintf("mounting %s from %s", e.Desc.Digest, e.From)
	}
	return fmt.Sprintf("pushing %s", e.Desc.Digest)
}
