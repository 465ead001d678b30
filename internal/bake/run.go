package bake

import (
	"context"
	"fmt"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
)

// Run carries builds out. The results are in their order.
func Run(ctx context.Context, b *build.Builder, builds []Build, to progress.Sink) ([]*build.Result, error) {
	results := make([]*build.Result, len(builds))
	for i, one := range builds {
		req := one.Request
		if one.Call != "" {
			req.Call = "frontend." + one.Call
		}
		res, err := b.Build(ctx, req, to)
		if err != nil {
			if len(builds) > 1 {
				err = fmt.Errorf("target %s: %w", one.Name, err)
			}
			return nil, err
		}
		results[i] = res
	}
	return results, nil
}
