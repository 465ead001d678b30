package cli

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
)

// contextFlags are the flags of what a build reads besides its context.
type contextFlags struct{ contexts []string }

func (o *contextFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&o.contexts, "build-context", nil, `Additional build contexts (format: "NAME=DIR|URL|docker-image://IMAGE|oci-layout://DIR[:TAG]")`)
}

// set reads the flags into a request, in docker buildx's way: a name may be that of an image.
func (o *contextFlags) set(a *app, req *build.Request) error {
	req.Stdin = a.stdin
	req.Contexts = map[string]string{}
	for _, v := range o.contexts {
		key, value, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("invalid context value: %s, expected key=value", v)
		}
		named, err := reference.ParseNormalizedNamed(key)
		if err != nil {
			return fmt.Errorf("invalid context name %s: %w", key, err)
		}
		req.Contexts[strings.TrimSuffix(reference.FamiliarString(named), ":latest")] = value
	}
	return nil
}
