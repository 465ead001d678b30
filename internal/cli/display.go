package cli

import (
	"context"
	"os"
	"strconv"

	"github.com/slipway-build/slipway/internal/progress"
)

// display starts what shows a build: on the terminal itself, for a live tree, or on stderr.
func (a *app) display(ctx context.Context, mode string) (*progress.Display, error) {
	opt := progress.DisplayOptions{Mode: mode, Out: a.stderr, Limits: stepLimits()}
	if f := terminalOf(a.stderr); f != nil {
		opt.Out, opt.Terminal = f, true
	}
	return progress.NewDisplay(ctx, opt)
}

// stepLimits are how much of a step's output is shown: BuildKit's daemon reads the same variables, and
// what is no number is as if it were not there.
func stepLimits() progress.Limits {
	limits := progress.DefaultLimits
	for name, n := range map[string]*int64{"BUILDKIT_STEP_LOG_MAX_SIZE": &limits.Size, "BUILDKIT_STEP_LOG_MAX_SPEED": &limits.Speed} {
		if v, err := strconv.ParseInt(os.Getenv(name), 10, 32); err == nil && v >= -1 {
			*n = v
		}
	}
	return limits
}
