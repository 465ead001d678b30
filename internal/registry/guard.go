package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"

	"github.com/slipway-build/slipway/internal/outbound"
)

// guard stands around one endpoint: what is said to it, and to whoever it names. The user's credentials
// are for the endpoint and its token service. Another host that it redirects to is asked without
// them; if that one wants a token, it is asked for one as anybody.
type guard struct {
	own    *url.URL
	plain  *atomic.Bool // the endpoint turned out not to speak TLS
	header http.Header  // that the user has set for the endpoint
	inner  docker.Authorizer
	as     asker
	bearer atomic.Bool // the endpoint wants a token
}

// asker is who asks an endpoint.
type asker struct {
	// lookup returns the user's credentials for a host, or none.
	lookup func(asked string) (user, secret string, err error)
	// tokens are of a user who may ask token services himself; nil: he does not.
	tokens Credentials
}

// fetches reports whether the user asks the endpoint's token service.
func (g *guard) fetches(ctx context.Context) bool {
	return g.as.tokens != nil && g.bearer.Load() && g.as.tokens.FetchesTokens(ctx, g.own.Host)
}

// protect puts the guard around an endpoint. rt leads to it and everybody else.
func protect(host *docker.RegistryHost, rt http.RoundTripper, plain *atomic.Bool, as asker, opts ...docker.AuthorizerOpt) {
	g := &guard{as: as, own: &url.URL{Scheme: host.Scheme, Host: host.Host}, plain: plain, header: host.Header}
	token := &http.Client{Transport: &tokenTransport{guard: g, next: rt}, CheckRedirect: g.tokenRedirect}
	g.inner = docker.NewDockerAuthorizer(append(opts, docker.WithAuthClient(token),
		docker.WithAuthCreds(func(asked string) (string, string, error) {
			if asked != host.Host || g.fetches(context.Background()) {
				return "", "", nil
			}
			return as.lookup(asked)
		}))...)
	host.Authorizer = g
	host.Client = &http.Client{Transport: rt, CheckRedirect: g.redirect}
}

// origin is that of an address, by the scheme that is really spoken.
func (g *guard) origin(u *url.URL) string {
	if u.Host == g.own.Host && g.plain.Load() {
		return "http://" + u.Host
	}
	return outbound.Origin(u)
}

// isOwn reports whether an address is one of the endpoint's.
func (g *guard) isOwn(u *url.URL) bool { return g.origin(u) == g.origin(g.own) }

// Authorize implements docker.Authorizer, which tells hosts apart by their names alone.
func (g *guard) Authorize(ctx context.Context, req *http.Request) error {
	if req.URL.Host == g.own.Host && !g.isOwn(req.URL) {
		return nil // another scheme
	}
	return g.inner.Authorize(ctx, req)
}

// AddResponses implements docker.Authorizer.
func (g *guard) AddResponses(ctx context.Context, responses []*http.Response) error {
	if n := len(responses); n > 0 {
		for _, c := range auth.ParseAuthHeader(responses[n-1].Header) {
			g.bearer.Store(g.bearer.Load() || c.Scheme == auth.BearerAuth)
		}
	}
	return g.inner.AddResponses(ctx, responses)
}

// redirect is the CheckRedirect of the endpoint's client.
func (g *guard) redirect(req *http.Request, via []*http.Request) error {
	if err := outbound.RedirectWithin(g.origin, req, via); err != nil {
		return err
	}
	return g.Authorize(req.Context(), req)
}

// maxToken is the size in bytes of the largest answer of a token service that is read.
const maxToken = 256 << 10

// tokenError is a token service that the endpoint may not name.
type tokenError struct{ text string }

func (e *tokenError) Error() string { return e.text }

// tokenTransport is for requests for tokens, which may have the user's password. Where they go the
// endpoint says.
type tokenTransport struct {
	*guard
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if !hasSecret(req) && t.fetches(ctx) {
		return t.fetched(req)
	}
	own := t.isOwn(req.URL)
	if !own {
		ctx = outbound.Sent(ctx, t.own)
	}
	req = req.Clone(ctx)
	if hasSecret(req) && !t.mayHear(req.URL) {
		return nil, &tokenError{fmt.Sprintf("it wants the password to be sent unencrypted, to %s", outbound.Origin(req.URL))}
	}
	if own {
		for name, values := range t.header {
			if name = http.CanonicalHeaderKey(name); req.Header.Get(name) == "" {
				req.Header[name] = values
			}
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: maxToken, tooBig: &tooBigError{what: "answer of the token service", limit: maxToken}}
	return resp, nil
}

// fetched is the answer that the user had of the token service.
func (t *tokenTransport) fetched(req *http.Request) (*http.Response, error) {
	realm := *req.URL
	params := realm.Query()
	q := TokenRequest{Host: t.own.Host, Service: params.Get("service"), Scopes: params["scope"]}
	params.Del("service")
	params.Del("scope")
	realm.RawQuery = params.Encode()
	q.Realm = realm.String()
	token, err := t.as.tokens.Token(req.Context(), q)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"token": token.Token, "expires_in": max(token.ExpiresIn, 0)}
	if token.IssuedAt > 0 {
		answer["issued_at"] = time.Unix(token.IssuedAt, 0).UTC()
	}
	data, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data)), ContentLength: int64(len(data)),
	}, nil
}

// hasSecret reports whether a request for a token tells who asks.
func hasSecret(req *http.Request) bool {
	return req.Header.Get("Authorization") != "" || req.Method == http.MethodPost
}

// mayHear reports whether passwords are sent to an address: encrypted, or where the endpoint itself is
// spoken to in the clear and the address is no farther away.
func (g *guard) mayHear(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	plain := g.own.Scheme == "http" || g.plain.Load()
	return plain && (docker.IsLocalhost(u.Host) || !docker.IsLocalhost(g.own.Host))
}

// tokenRedirect is the CheckRedirect for requests for tokens. A password in a body is sent on to nobody.
func (g *guard) tokenRedirect(req *http.Request, via []*http.Request) error {
	if req.Method == http.MethodPost && g.origin(req.URL) != g.origin(via[0].URL) {
		return &tokenError{"its token service sends us on to another server with the password"}
	}
	return outbound.RedirectWithin(g.origin, req, via)
}
