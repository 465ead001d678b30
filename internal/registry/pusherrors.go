package registry

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// explainRefusal is explainAnswer for a push.
func (c *Client) explainRefusal(e *Error, op *operation, err error) {
	status, subject, words := statusOf(err), op.subject(), registryMessage(err)
	switch {
	case errors.Is(err, errRateLimit), status == http.StatusTooManyRequests:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s refuses %s for now: too many requests%s", op.host, subject, words)
		e.hint = "try again later"
	case unauthenticated(err):
		e.Kind = errdefs.ErrUnauthenticated
		e.problem = denied("push", op, words)
		e.hint = fmt.Sprintf("check the name, or log in (slipway login %s)", op.host)
	case status == http.StatusForbidden:
		e.Kind = errdefs.ErrPermissionDenied
		e.problem = denied("push", op, words)
		e.hint = fmt.Sprintf("check the name, or log in as somebody who may push to it (slipway login %s)", op.host)
	case errdefs.IsNotFound(err), status == http.StatusNotFound:
		e.Kind = errdefs.ErrNotFound
		e.problem = fmt.Sprintf("registry %s has no place for %s%s", op.host, subject, words)
		e.hint = "check the name, and that the host is a registry; some want a repository to be made first"
	case status == http.StatusRequestEntityTooLarge:
		e.Kind = errdefs.ErrOutOfRange
		e.problem = fmt.Sprintf("registry %s finds %s of %d bytes too large%s", op.host, subject, op.desc.Size, words)
		e.hint = "raise the limit of the registry, or of the proxy in front of it"
	case status == http.StatusMethodNotAllowed:
		e.Kind = errdefs.ErrPermissionDenied
		e.problem = fmt.Sprintf("registry %s is only for pulling: it refuses %s%s", op.host, subject, words)
		e.hint = "push to another one"
	case status >= 500 || status == http.StatusRequestTimeout:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s fails to take %s%s", op.host, subject, words)
		e.hint = "try again later"
	default:
		e.Kind = errdefs.ErrUnknown
		e.problem = fmt.Sprintf("registry %s rejects %s%s", op.host, subject, words)
		e.hint = "check the reference, and that the host is a registry"
	}
}
