package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Delete removes the manifest that a reference has the digest of, with all its tags where the registry goes by the specification, or the tag that it has. An error that is errdefs.ErrNotFound says that it is not there, and one that
// is errdefs.ErrNotImplemented that the registry removes nothing; others are those of [Client.Push].
func (c *Client) Delete(ctx context.Context, ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("parsing image name %q: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	var name string
	switch r := named.(type) {
	case reference.Digested:
		name = r.Digest().String()
	case reference.Tagged:
		name = r.Tag()
	default:
		return fmt.Errorf("%s has no tag and no digest: %w", ref, errdefs.ErrInvalidArgument)
	}
	op := newOperation(named, ocispec.Descriptor{})
	e, err := c.pushEndpoint(named)
	if err != nil {
		return c.explain(ctx, op, err)
	}
	ctx = docker.WithScope(withOperation(ctx, op), "repository:"+reference.Path(named)+":delete")
	resp, err := e.do(ctx, request{method: http.MethodDelete, url: e.url("manifests/" + name)})
	if err != nil {
		return c.explain(ctx, op, err)
	}
	defer drain(resp)
	err = wantStatus(resp, http.StatusAccepted, http.StatusOK, http.StatusNoContent)
	switch resp.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	case http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest:
		return fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
	}
	if err != nil {
		return c.explain(ctx, op, err)
	}
	return nil
}
