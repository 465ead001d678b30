package build

import (
	"fmt"

	"github.com/moby/buildkit/util/entitlements"

	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/secrets"
)

// allow sets what a build may use besides its files: secrets, SSH agents and entitlements.
func (r *Request) allow(opt *engine.RunOptions) (err error) {
	if c := r.Client; c != nil {
		opt.Secrets, opt.SSH = c, c.Agents()
	}
	if len(r.Secrets) > 0 {
		if opt.Secrets, err = secrets.NewStore(r.Secrets); err != nil {
			return fmt.Errorf("reading secrets: %w", err)
		}
	}
	if len(r.SSH) > 0 {
		if opt.SSH, err = secrets.NewAgents(r.SSH); err != nil {
			return fmt.Errorf("reading SSH agents: %w", err)
		}
	}
	opt.Entitlements, err = r.entitlements()
	return err
}

// entitlements are those of the request. The host's network for all steps comes with its
// entitlement, as in docker buildx.
func (r *Request) entitlements() (entitlements.Set, error) {
	var all []entitlements.Entitlement
	for _, a := range r.Allow {
		all = append(all, entitlements.Entitlement(a))
	}
	if r.Network == "host" {
		all = append(all, entitlements.EntitlementNetworkHost)
	}
	set, err := entitlements.WhiteList(all, nil)
	if err != nil {
		return nil, fmt.Errorf("reading --allow: %w", err)
	}
	return set, nil
}
