package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	dreference "github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
)

const (
	// maxTagPages bounds a list that has no end.
	maxTagPages = 1000
	// maxTagPage is the size in bytes of the largest part of a list.
	maxTagPage = 8 << 20
	// maxTags is how many tags a list may have.
	maxTags = 1_000_000
)

// validTag is the form that the OCI distribution specification gives a tag.
var validTag = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$") })

// Tags lists the tags of a repository in the order in which the registry, or the first of its mirrors
// that answers, has them. Errors are those of [Client.Resolve].
func (c *Client) Tags(ctx context.Context, repository string) ([]string, error) {
	named, err := dreference.ParseNormalizedNamed(repository)
	if err != nil {
		return nil, fmt.Errorf("parsing image name %q: %w: %w", repository, err, errdefs.ErrInvalidArgument)
	}
	op := newOperation(named, ocispec.Descriptor{})
	ctx = withOperation(ctx, op)
	var tags []string
	err = c.retry(ctx, op, func(ctx context.Context) (err error) {
		tags, err = c.tags(ctx, named)
		return err
	})
	if err != nil {
		return nil, c.explain(ctx, op, err)
	}
	return tags, nil
}

// tags asks one host after the other.
func (c *Client) tags(ctx context.Context, named dreference.Named) (tags []string, err error) {
	err = c.anyHost(ctx, named, func(e *endpoint) (err error) {
		tags, err = e.tags(ctx)
		return err
	})
	return tags, err
}

// anyHost asks the hosts that a repository is pulled from, one after the other, until one answers or ctx ends.
func (c *Client) anyHost(ctx context.Context, named dreference.Named, ask func(*endpoint) error) error {
	name := dreference.Domain(named)
	hosts, err := c.hostsOf(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, host := range hosts {
		if !host.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		e := &endpoint{client: c, host: host, name: name, repo: dreference.Path(named), spec: reference.Spec{Locator: named.Name()}}
		err := ask(e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	if i := slices.IndexFunc(errs, transient); i >= 0 {
		return errs[i] // another time it may have the answer
	}
	return errors.Join(errs...)
}

// tags reads the list, which may come in parts.
func (e *endpoint) tags(ctx context.Context) ([]string, error) {
	ctx, err := docker.ContextWithRepositoryScope(ctx, e.spec, false)
	if err != nil {
		return nil, err
	}
	var all []string
	next := e.url("tags/list")
	for range maxTagPages {
		resp, err := e.authorized(ctx, request{method: http.MethodGet, url: next})
		if err != nil {
			return nil, err
		}
		var page struct{ Tags []string }
		if err = wantStatus(resp, http.StatusOK); err == nil {
			err = json.NewDecoder(io.LimitReader(resp.Body, maxTagPage)).Decode(&page)
		}
		drain(resp)
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		}
		if err != nil {
			return nil, err
		}
		for _, tag := range page.Tags {
			if validTag().MatchString(tag) { // nobody can use another
				all = append(all, tag)
			}
		}
		if len(all) > maxTags {
			return nil, fmt.Errorf("the list of tags has more than %d", maxTags)
		}
		if next = nextPage(resp); next == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("the list of tags does not end after %d parts", maxTagPages)
}

// nextPage is where a list goes on, at the same host, or "". (RFC 8288: Link: </path>; rel="next")
func nextPage(resp *http.Response) string {
	target, params, ok := strings.Cut(resp.Header.Get("Link"), ">")
	if !ok || !strings.Contains(params, `rel="next"`) {
		return ""
	}
	u, err := url.Parse(strings.TrimPrefix(strings.TrimSpace(target), "<"))
	if err != nil {
		return ""
	}
	u = resp.Request.URL.ResolveReference(u)
	if outbound.Origin(u) != outbound.Origin(resp.Request.URL) {
		return ""
	}
	return u.String()
}
