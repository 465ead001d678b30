package bake

import (
	"context"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
)

// Run carries builds out together. The results are in their order.
func Run(ctx context.Context, b *build.Builder, builds []Build, to progress.Sink) ([]*build.Result, error) {
	all := make([]build.Named, len(builds))
	for i, one := range builds {
		all[i] = build.Named{Name: one.Name, Request: one.Request}
		if one.Call != "" {
			all[i].Request.Call = "frontend." + one.Call
		}
	}
	return b.BuildAll(ctx, all, to)
}
