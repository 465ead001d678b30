package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/secrets"
)

// secretFlags are the flags of what a build may use and does not keep, and of what its steps may do.
type secretFlags struct{ secrets, ssh, allow []string }

func (o *secretFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&o.secrets, "secret", nil, `Secret for RUN and for fetching, "id=ID[,src=FILE|env=VARIABLE]" (repeatable)`)
	f.StringArrayVar(&o.ssh, "ssh", nil, `SSH agent or keys for RUN and for fetching, "default|ID[=SOCKET|KEY[,KEY]]" (repeatable)`)
	f.StringArrayVar(&o.allow, "allow", nil, `What steps may do: "network.host", "security.insecure" (repeatable)`)
}

// set reads the flags into a request.
func (o *secretFlags) set(req *build.Request) error {
	for _, v := range o.secrets {
		s, err := secrets.ParseSource(v)
		if err != nil {
			return fmt.Errorf("--secret %s: %w", v, err)
		}
		req.Secrets = append(req.Secrets, s)
	}
	for _, v := range o.ssh {
		a, err := secrets.ParseAgent(v)
		if err != nil {
			return fmt.Errorf("--ssh %s: %w", v, err)
		}
		req.SSH = append(req.SSH, a)
	}
	req.Allow = o.allow
	return nil
}
