package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"

	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/registry"
)

// Registries are what the client knows registries by.
type Registries struct{ client *Client }

var _ registry.Credentials = Registries{}

// Registries returns what the client knows registries by.
func (c *Client) Registries() Registries { return Registries{c} }

// Account is the name of those whom registries know by the same: the sessions that are asked.
func (c *Client) Account() string { return fmt.Sprintf("%q %q", c.opt.Owner, c.opt.IDs) }

// method is the name of one of the service's methods.
func authMethod(name string) string {
	return session.MethodURL(auth.Auth_ServiceDesc.ServiceName, name)
}

// Lookup implements [registry.Credentials]. Who does not know the service is nobody.
func (r Registries) Lookup(ctx context.Context, host string) (user, secret string, err error) {
	err = r.client.each(ctx, authMethod("credentials"), nil, func(caller session.Caller) error {
		ctx, cancel := r.client.bound(ctx, callTime)
		defer cancel()
		resp, err := auth.NewAuthClient(caller.Conn()).Credentials(caller.Context(ctx), &auth.CredentialsRequest{Host: host})
		if err == nil {
			user, secret = resp.Username, resp.Secret
		}
		return explain(ctx, err, "asking the client for credentials of %s", outbound.Clean(host))
	})
	if errors.Is(err, errNotServed) {
		err = nil
	}
	if len(user)+len(secret) > maxCredentials {
		return "", "", fmt.Errorf("asking the client for credentials of %s: they have %d bytes", outbound.Clean(host), len(user)+len(secret))
	}
	return user, secret, err
}

// maxCredentials is how long a name, a password or a token of a client's may be, in bytes.
const maxCredentials = 256 << 10

// FetchesTokens implements [registry.Credentials]: the client asks a token service by itself, if it wants to, so that no
// password leaves it.
func (r Registries) FetchesTokens(ctx context.Context, host string) bool {
	err := r.client.each(ctx, authMethod("gettokenauthority"), nil, func(caller session.Caller) error {
		ctx, cancel := r.client.bound(ctx, callTime)
		defer cancel()
		_, err := auth.NewAuthClient(caller.Conn()).GetTokenAuthority(caller.Context(ctx), &auth.GetTokenAuthorityRequest{Host: host, Salt: authoritySalt()})
		if err != nil {
			return errNotServed // it says no, in whatever way: there are credentials then
		}
		return nil
	})
	return err == nil
}

// Token implements [registry.Credentials].
func (r Registries) Token(ctx context.Context, q registry.TokenRequest) (t registry.Token, err error) {
	doing := fmt.Sprintf("having the client fetch a token for %s", outbound.Clean(q.Host))
	err = r.client.each(ctx, authMethod("fetchtoken"), nil, func(caller session.Caller) error {
		ctx, cancel := r.client.bound(ctx, callTime)
		defer cancel()
		resp, err := auth.NewAuthClient(caller.Conn()).FetchToken(caller.Context(ctx), &auth.FetchTokenRequest{
			ClientID: "buildkit-client", Host: q.Host, Realm: q.Realm, Service: q.Service, Scopes: q.Scopes,
		})
		if err == nil {
			t = registry.Token{Token: resp.Token, ExpiresIn: resp.ExpiresIn, IssuedAt: resp.IssuedAt}
		}
		return explain(ctx, err, "%s", doing)
	})
	if err == nil && len(t.Token) > maxCredentials {
		return registry.Token{}, fmt.Errorf("%s: it has %d bytes", doing, len(t.Token))
	}
	return t, err
}

// authoritySalt is this process' own, so that keys that clients make of it are good for nothing else.
var authoritySalt = sync.OnceValue(func() []byte {
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // it never fails
	return salt
})
