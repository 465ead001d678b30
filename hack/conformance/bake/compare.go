package bake

import (
	"fmt"
	"strings"

	"github.com/slipway-build/slipway/hack/conformance"
)

// Compare tells how slipway's run differs from buildx', "" if it does not.
func Compare(buildx, slipway *Run) string {
	out := (*Run).Out
	if buildx.Unordered {
		out = (*Run).Sorted
	}
	text := ""
	if buildx.Exit != slipway.Exit {
		text += fmt.Sprintf("exit status is %d, want %d\n", slipway.Exit, buildx.Exit)
	}
	for _, s := range []struct{ name, want, got string }{{"stdout", out(buildx), out(slipway)}, {"stderr", buildx.Stderr, slipway.Stderr}} {
		if s.want != s.got {
			text += s.name + ", slipway's (+) beside buildx' (-):\n" + strings.Join(conformance.Diff(s.want, s.got), "\n") + "\n"
		}
	}
	return text
}
