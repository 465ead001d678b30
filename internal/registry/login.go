package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Login asks a registry whether it knows a user, or takes an identity token where user is empty. The
// registry is named as in references: "docker.io", "localhost:5000". It may give an identity token
// that is to be kept in place of the password; else that is empty.
//
// Errors are those of [Client.Resolve]: ErrUnauthenticated for a wrong password.
func (c *Client) Login(ctx context.Context, host, user, secret string) (identityToken string, err error) {
	named, err := reference.ParseNormalizedNamed(host + "/login")
	if err != nil || reference.Domain(named) != host {
		return "", fmt.Errorf("logging in to %q: this is no name of a registry: %w (write HOST or HOST:PORT)", host, errdefs.ErrInvalidArgument)
	}
	op := &operation{name: named, host: host, login: true}
	l := &login{client: c, host: host, user: user, secret: secret}
	ctx = withOperation(ctx, op)
	err = c.retry(ctx, op, l.attempt)
	if err != nil {
		return "", c.explain(ctx, op, err)
	}
	return l.token, nil
}

// login is one call of Login.
type login struct {
	client             *Client
	host, user, secret string

	mu    sync.Mutex
	token string
}

// attempt asks for the registry's base address with the credentials. They are not those that
// [Client.hostsOf] knows, and no mirror is asked.
func (l *login) attempt(ctx context.Context) error {
	l.client.mu.Lock()
	hosts, err := l.client.configure(l.host, asker{lookup: func(string) (string, string, error) { return l.user, l.secret, nil }}, docker.WithFetchRefreshToken(l.keep))
	l.client.mu.Unlock()
	if err != nil {
		return err
	}
	if len(hosts) == 0 {
		return &configError{fmt.Errorf("reading the settings of registry %s: there is no host in them", l.host)}
	}
	e := &endpoint{client: l.client, host: hosts[len(hosts)-1], name: l.host}
	resp, err := e.authorized(ctx, request{method: http.MethodGet, url: e.host.Scheme + "://" + e.host.Host + e.host.Path + "/"})
	if err != nil {
		return err
	}
	defer drain(resp)
	return wantStatus(resp, http.StatusOK)
}

func (l *login) keep(_ context.Context, token string, _ *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token = token
}

// explainLogin is explainAnswer for a login.
func (c *Client) explainLogin(e *Error, op *operation, err error) {
	status, words := statusOf(err), registryMessage(err)
	switch {
	case errors.Is(err, errRateLimit), status == http.StatusTooManyRequests:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s refuses the login for now: too many requests%s", op.host, words)
		e.hint = "try again later"
	case unauthenticated(err), status == http.StatusForbidden:
		e.Kind = errdefs.ErrUnauthenticated
		e.problem = fmt.Sprintf("registry %s refuses the login: unauthorized: incorrect username or password%s", op.host, words)
		e.Tried = nil
	case status >= 500:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s fails to answer the login%s", op.host, words)
		e.hint = "try again later"
	default:
		e.Kind = errdefs.ErrUnknown
		e.problem = fmt.Sprintf("%s does not answer as a registry does%s", op.host, words)
		e.hint = "check the name of the registry"
	}
}
