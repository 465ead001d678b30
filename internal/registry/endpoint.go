package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	dreference "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
)

// endpoint is one repository at the host that is pushed to. What containerd's own pusher cannot do,
// to go on with a broken upload, is why requests are made here.
type endpoint struct {
	client *Client
	host   docker.RegistryHost
	spec   reference.Spec
	name   string // of the registry, as in references
	repo   string
}

// errNoPushHost says that hosts.toml allows nobody to be pushed to.
var errNoPushHost = errors.New("none of the hosts in its hosts.toml has the capability \"push\"")

// pushEndpoint finds where the repository of a reference is pushed to: the first host that is not
// only for pulling, as containerd does.
func (c *Client) pushEndpoint(named dreference.Named) (*endpoint, error) {
	name := dreference.Domain(named)
	hosts, err := c.hostsOf(name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(hosts, func(h docker.RegistryHost) bool { return h.Capabilities.Has(docker.HostCapabilityPush) })
	if i < 0 {
		return nil, &configError{errNoPushHost}
	}
	return &endpoint{
		client: c, host: hosts[i], name: name, repo: dreference.Path(named),
		spec: reference.Spec{Locator: named.Name()},
	}, nil
}

// url returns the address of something of the repository.
func (e *endpoint) url(path string) string {
	u := e.host.Scheme + "://" + e.host.Host + strings.TrimSuffix(e.host.Path, "/") + "/" + e.repo + "/" + path
	if e.host.Host != e.name && (e.name != "docker.io" || e.host.Host != "registry-1.docker.io") {
		u = withQuery(u, url.Values{"ns": {e.name}}) // tells a host that serves several registries which one is meant
	}
	return u
}

func withQuery(u string, q url.Values) string {
	if strings.Contains(u, "?") {
		return u + "&" + q.Encode()
	}
	return u + "?" + q.Encode()
}

// request is a request that can be sent again.
type request struct {
	method, url string
	header      http.Header
	body        func() (io.ReadCloser, error)
	size        int64
	foreign     bool   // another host answers it, which is not to see credentials
	mount       string // another repository that is read
	single      bool   // what it sends is not sent again: the caller looks first what has arrived
}

// exhausted is the last failure of a request that was sent as often as it makes sense.
type exhausted struct{ err error }

func (e *exhausted) Error() string { return e.err.Error() }
func (e *exhausted) Unwrap() error { return e.err }

// do sends a request, again after failures that pass, and when the registry wants credentials or for
// us to be slower. The answer may have any other status.
func (e *endpoint) do(ctx context.Context, r request) (*http.Response, error) {
	ctx, err := docker.ContextWithRepositoryScope(ctx, e.spec, true)
	if err != nil {
		return nil, err
	}
	if r.mount != "" {
		ctx = docker.ContextWithAppendPullRepositoryScope(ctx, r.mount)
	}
	for fails := 1; ; fails++ {
		resp, err := e.authorized(ctx, r)
		if err == nil {
			e.client.setReached(e.name)
			if err = passing(resp); err == nil {
				return resp, nil
			}
		}
		var auth *authError
		again := transient(err) || timedOut(err) || e.client.refusedLater(operationOf(ctx), err)
		switch {
		case r.single || !again || ctx.Err() != nil || errors.As(err, &auth):
			return nil, err
		case fails >= e.client.tune.attempts:
			return nil, &exhausted{err}
		}
		if err := e.client.pause(ctx, fails); err != nil {
			return nil, err
		}
	}
}

// passing returns an error for an answer that may be another one a moment later.
func passing(resp *http.Response) error {
	if resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout {
		return nil
	}
	err := statusError(resp)
	drain(resp)
	return err
}

// authError is a failure to get the right to ask. Within containerd's authorizer it is for good.
type authError struct{ err error }

func (e *authError) Error() string { return e.err.Error() }
func (e *authError) Unwrap() error { return e.err }

// authorized sends a request with credentials, if it is told to.
func (e *endpoint) authorized(ctx context.Context, r request) (*http.Response, error) {
	var answers []*http.Response
	for {
		resp, err := e.once(ctx, r)
		if err != nil {
			return nil, err
		}
		answers = append(answers, resp)
		switch {
		case resp.StatusCode == http.StatusTooManyRequests: // the transport has waited, and knows when it is enough
			drain(resp)
			answers = nil
			continue
		case resp.StatusCode != http.StatusUnauthorized || e.host.Authorizer == nil || r.foreign || len(answers) > 2:
			return resp, nil
		}
		if err := e.host.Authorizer.AddResponses(ctx, answers); err != nil {
			if errdefs.IsNotImplemented(err) {
				return resp, nil
			}
			refused := statusError(resp)
			drain(resp)
			return nil, &authError{errors.Join(err, refused)}
		}
		drain(resp)
	}
}

// once sends a request once.
func (e *endpoint) once(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return nil, err
	}
	own := e.host.Header
	if r.foreign { // what the user has set is for the registry
		own = nil
		req = req.WithContext(outbound.Sent(ctx, &url.URL{Scheme: e.host.Scheme, Host: e.host.Host}))
	}
	for _, h := range []http.Header{own, r.header} {
		for k, v := range h {
			req.Header[http.CanonicalHeaderKey(k)] = slices.Clone(v)
		}
	}
	if !r.foreign && e.host.Authorizer != nil {
		if err := e.host.Authorizer.Authorize(ctx, req); err != nil {
			return nil, &authError{err}
		}
	}
	if r.body != nil {
		req.GetBody = r.body
		req.ContentLength = r.size
		if req.Body, err = r.body(); err != nil {
			return nil, err
		}
		if r.size == 0 {
			req.Body.Close()
			req.Body = http.NoBody
		}
	}
	return e.host.Client.Do(req)
}

// drain ends the use of an answer so that its connection can be used again.
func drain(resp *http.Response) {
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what is not read only costs the connection
	resp.Body.Close()
}

// exists reports whether the registry has a blob or, under this very name, a manifest.
func (e *endpoint) exists(ctx context.Context, path string, desc ocispec.Descriptor) (bool, error) {
	resp, err := e.do(ctx, request{
		method: http.MethodHead, url: e.url(path),
		header: http.Header{"Accept": {desc.MediaType + ", */*"}},
	})
	if err != nil {
		return false, err
	}
	defer drain(resp)
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return false, nil
	case http.StatusOK:
		if !isManifest(desc) || strings.HasSuffix(path, desc.Digest.String()) {
			return true, nil
		}
		return digest.Digest(resp.Header.Get("Docker-Content-Digest")) == desc.Digest, nil
	}
	return false, statusError(resp)
}

// wantStatus returns an error unless an answer has one of the statuses.
func wantStatus(resp *http.Response, wanted ...int) error {
	if slices.Contains(wanted, resp.StatusCode) {
		return nil
	}
	return statusError(resp)
}

// statusError is the error for an answer that is none of those expected, in the form in which
// containerd has it: with the registry's own words, if it said any.
func statusError(resp *http.Response) error {
	err := remoteerrors.NewUnexpectedStatusErr(resp)
	var status remoteerrors.ErrUnexpectedStatus
	var words docker.Errors
	if errors.As(err, &status) && json.Unmarshal(status.Body, &words) == nil && len(words) > 0 {
		return errors.Join(err, words)
	}
	return err
}
