package client

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	bksecrets "github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"

	"github.com/slipway-build/slipway/internal/outbound"
	"github.com/slipway-build/slipway/internal/secrets"
)

var _ secrets.Secrets = (*Client)(nil)

// Secret implements [secrets.Secrets]. The client is asked each time.
func (c *Client) Secret(ctx context.Context, id string) (value []byte, err error) {
	name := outbound.Clean(id)
	method := session.MethodURL(bksecrets.Secrets_ServiceDesc.ServiceName, "getsecret")
	err = c.each(ctx, method, nil, func(caller session.Caller) error {
		ctx, cancel := c.bound(ctx, 0)
		defer cancel()
		resp, err := bksecrets.NewSecretsClient(caller.Conn()).GetSecret(caller.Context(ctx), &bksecrets.GetSecretRequest{ID: id})
		err = explain(ctx, err, "asking the client for secret %s", name)
		if errdefs.IsNotFound(err) {
			return errNotServed // another session may have it
		}
		if err == nil {
			value = resp.Data
		}
		return err
	})
	switch {
	case errors.Is(err, errNotServed):
		return nil, fmt.Errorf("secret %s: %w", name, errdefs.ErrNotFound)
	case err != nil:
		return nil, err
	case len(value) > secretsprovider.MaxSecretSize:
		return nil, fmt.Errorf("reading secret %s: invalid secret size %d", name, len(value))
	}
	return value, nil
}

// Origin implements [secrets.Secrets]: clients that give the same value give the same secret, whoever they are. The value is
// the one that the client gives first.
func (c *Client) Origin(id string) string {
	c.mu.Lock()
	of, ok := c.secrets[id]
	c.mu.Unlock()
	if ok {
		return of
	}
	ctx, cancel := c.bound(c.ctx, callTime)
	defer cancel()
	value, err := c.Secret(ctx, id)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		of = fmt.Sprintf("client %d", c.number) // nobody else's
	default:
		h := hmac.New(sha256.New, originKey())
		h.Write(value)
		of = "value " + hex.EncodeToString(h.Sum(nil))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.secrets[id]; ok { // who asked at the same time has that
		return first
	}
	c.secrets[id] = of
	return of
}

// originKey keeps what is compared from telling anything outside of the process.
var originKey = sync.OnceValue(func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return key
})
