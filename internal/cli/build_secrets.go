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
	f.StringArrayVar(&o.secrets, "secret", nil, `Secret to expose to the build (format: "id=mysecret[,src=/local/secret|env=VARIABLE]")`)
	f.StringArrayVar(&o.ssh, "ssh", nil, `SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	f.StringArrayVar(&o.allow, "allow", nil, `Allow extra privileged entitlement ("network.host", "security.insecure")`)
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
