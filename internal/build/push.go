package build

import (
	"context"
	"errors"

	"github.com/slipway-build/slipway/internal/export"
	"github.com/slipway-build/slipway/internal/progress"
)

// push sends an assembly to the registries that its names are of.
func (b *building) push(ctx context.Context, o *Output, a *export.Assembly, step *progress.Step) error {
	return errors.New("pushing is not there yet")
}
