package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Error is a registry's refusal or failure. Its text is a line about what is wrong, in the words of Docker's
// tools where they have any, then a line for each host that was asked and one about what the user can do; it
// never holds credentials, tokens or signed addresses.
type Error struct {
	// Kind is the category, one of errdefs' errors; errors.Is finds it.
	Kind error
	// Ref is the normalised reference.
	Ref string
	// Host is the registry that the reference names; mirrors may have been asked instead.
	Host string
	// Tried lists "host: outcome" of the hosts that failed.
	Tried []string

	problem, hint string
}

// Error implements error.
func (e *Error) Error() string {
	line := strings.NewReplacer("\n", " ", "\r", " ").Replace // a registry's words do not pass for ours
	var b strings.Builder
	b.WriteString(line(e.problem))
	for _, t := range e.Tried {
		b.WriteString("\n  tried " + line(t))
	}
	if e.hint != "" {
		b.WriteString("\n  " + e.hint)
	}
	return b.String()
}

// Unwrap returns the category.
func (e *Error) Unwrap() error { return e.Kind }

// explain makes the error that leaves this package. A cancelled context stays what it is.
func (c *Client) explain(ctx context.Context, op *operation, err error) error {
	subject := op.subject()
	if ctx.Err() != nil {
		return fmt.Errorf("asking registry %s for %s: %w", op.host, subject, context.Cause(ctx))
	}
	e := &Error{Ref: op.name.String(), Host: op.host, Tried: op.failures()}
	var (
		tooBig  *tooBigError
		config  *configError
		size    *sizeError
		content *contentError
		token   *tokenError
	)
	switch {
	case errors.As(err, &content):
		return fmt.Errorf("pushing %s: %w", subject, content.err)
	case errors.As(err, &config):
		e.Kind, e.Tried = errdefs.ErrFailedPrecondition, nil
		e.problem = scrub(config.Error())
		e.hint = "correct that file"
	case errors.As(err, &token), outbound.IsBeyondReach(err):
		e.Kind, e.Tried = errdefs.ErrPermissionDenied, nil
		e.problem = fmt.Sprintf("registry %s is not followed for %s: %s", op.host, subject, scrub(err.Error()))
		if token != nil {
			e.problem = fmt.Sprintf("registry %s is not followed for %s: %s", op.host, subject, token)
		}
		e.hint = "check that this is the registry that you mean"
	case errors.As(err, &tooBig):
		e.Kind, e.Tried = errdefs.ErrOutOfRange, nil
		e.problem = fmt.Sprintf("registry %s gave %s: %s", op.host, subject, tooBig)
		e.hint = "check that the reference names a container image"
	case errors.As(err, &size):
		e.Kind = errdefs.ErrDataLoss
		e.problem = fmt.Sprintf("registry %s gave %s with a wrong size: %s", op.host, subject, size)
		e.hint = "what the registry holds is damaged; push the image again, or use another one"
	case unauthenticated(err) || errdefs.IsNotFound(err) || errors.Is(err, errRateLimit) || statusOf(err) >= 400:
		switch {
		case op.login:
			c.explainLogin(e, op, err)
		case op.push:
			c.explainRefusal(e, op, err)
		default:
			c.explainAnswer(e, op, err)
		}
	case errors.Is(err, errBreaks):
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("getting %s from registry %s: %s", subject, op.host, errBreaks)
		e.hint = "check the network and the registry, or name a mirror in " + c.hostsFile(op.host)
	case errors.Is(err, outbound.ErrSlow):
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s is too slow with %s", op.host, subject)
		if len(e.Tried) == 0 {
			e.problem += ": " + err.Error()
		}
		e.hint = "try again later, or name a mirror in " + c.hostsFile(op.host)
	case len(e.Tried) > 0 || transient(err):
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s cannot be reached", op.host)
		if op.login || op.desc.Digest != "" { // who asks for an image names it
			e.problem += " for " + subject
		}
		if len(e.Tried) == 0 {
			e.problem += ": " + scrub(err.Error())
		}
		e.hint = c.reachHint(op.host, e.Tried)
	default:
		e.Kind = errdefs.ErrUnknown
		e.problem = fmt.Sprintf("asking registry %s for %s: %s", op.host, subject, scrub(err.Error()))
	}
	return e
}

// explainAnswer fills in what a registry's answer with an error status means.
func (c *Client) explainAnswer(e *Error, op *operation, err error) {
	status, subject, words := statusOf(err), op.subject(), registryMessage(err)
	switch {
	case errors.Is(err, errRateLimit), status == http.StatusTooManyRequests:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s refuses %s for now: too many requests%s", op.host, subject, words)
		e.hint = "wait, log in for a higher limit, or name a mirror in " + c.hostsFile(op.host)
	case unauthenticated(err):
		e.Kind = errdefs.ErrUnauthenticated
		e.problem = denied("pull", op, words)
		e.hint = fmt.Sprintf("check the name, or log in (slipway login %s)", op.host)
	case status == http.StatusForbidden:
		e.Kind = errdefs.ErrPermissionDenied
		e.problem = denied("pull", op, words)
		e.hint = fmt.Sprintf("check the name, or log in as somebody who may pull it (slipway login %s)", op.host)
	case errdefs.IsNotFound(err):
		e.Kind = errdefs.ErrNotFound
		e.problem = op.name.String() + ": not found"
		e.hint = "check the name and the tag, or build an image of that name first"
		if op.desc.Digest != "" {
			e.problem = fmt.Sprintf("%s not found in registry %s", subject, op.host)
			e.hint = "the registry has lost a part of it; push the image again, or use another one"
		}
	case status >= 500 || status == http.StatusRequestTimeout:
		e.Kind = errdefs.ErrUnavailable
		e.problem = fmt.Sprintf("registry %s fails to give %s%s", op.host, subject, words)
		e.hint = "try again later, or name a mirror in " + c.hostsFile(op.host)
	default:
		e.Kind = errdefs.ErrUnknown
		e.problem = fmt.Sprintf("registry %s rejects the request for %s%s", op.host, subject, words)
		e.hint = "check the reference, and that the host is a registry"
	}
}

// denied are the words of containerd, and so of Docker and BuildKit, for what one may not pull or push.
func denied(what string, op *operation, words string) string {
	return fmt.Sprintf("%s access denied, repository does not exist or may require authorization: %s%s", what, op.subject(), words)
}

// hostsFile names the file where the user can configure mirrors of a registry.
func (c *Client) hostsFile(host string) string {
	root := "certs.d"
	if len(c.opts.CertsDirs) > 0 {
		root = c.opts.CertsDirs[0]
	}
	return filepath.Join(root, host, "hosts.toml")
}

// reachHint says what can be done about a registry that gives no answer.
func (c *Client) reachHint(host string, tried []string) string {
	switch all := strings.Join(tried, "\n"); {
	case strings.Contains(all, "first record does not look like a TLS handshake"):
		return fmt.Sprintf("if it speaks plain HTTP on purpose, write server = \"http://%s\" in %s", host, c.hostsFile(host))
	case strings.Contains(all, "remote error: tls: bad certificate"), strings.Contains(all, "remote error: tls: certificate required"):
		return fmt.Sprintf("it wants to know who asks by a certificate: name ours in %s (client = [[\"CERT FILE\", \"KEY FILE\"]])", c.hostsFile(host))
	case strings.Contains(all, "x509:"):
		return fmt.Sprintf("if its certificate is to be trusted, name its CA in %s (ca = \"FILE\")", c.hostsFile(host))
	}
	return "check the network and the name of the registry, or name a mirror in " + c.hostsFile(host)
}

// subject names what the operation is about.
func (o *operation) subject() string {
	switch {
	case o.login:
		return "a login"
	case o.desc.Digest == "":
		return fmt.Sprintf("image %q", o.name.String())
	case o.push && isManifest(o.desc):
		return fmt.Sprintf("manifest %s of image %q", o.desc.Digest, o.name.String())
	}
	return fmt.Sprintf("blob %s of image %q", o.desc.Digest, o.name.String())
}

// transient reports whether the same request may well succeed a moment later. A refused or
// unresolvable connection is not: the user should learn of it at once.
func transient(err error) bool {
	switch status := statusOf(err); {
	case status == http.StatusRequestTimeout, status == http.StatusInternalServerError,
		status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return true
	case status != 0:
		return false
	}
	for _, target := range []error{
		io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, errStalled, outbound.ErrSlow,
		// While our own context is alive, this is somebody else's: containerd shares one
		// token request between all that wait for it.
		context.Canceled,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// refusedLater reports whether a registry that has just given the manifest, or taken something,
// refuses connections now, as one that is restarting does.
func (c *Client) refusedLater(op *operation, err error) bool {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	if !op.push {
		return op.desc.Digest != ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reached[op.host]
}

// setReached notes that a registry answers.
func (c *Client) setReached(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached[host] = true
}

// unauthenticated reports whether the registry wants other credentials, or any.
func unauthenticated(err error) bool {
	return errors.Is(err, docker.ErrInvalidAuthorization) || statusOf(err) == http.StatusUnauthorized
}

// statusOf returns the HTTP status that err tells of, or 0.
func statusOf(err error) int {
	var s remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &s) {
		return s.StatusCode
	}
	return 0
}

// refusedAs reports whether a registry gave a code of the distribution specification, of which containerd knows a few. DIGEST_INVALID of a manifest whose digest is
// right is what one on a filesystem says in the instant in which somebody else writes the same blob: its link is empty then (distribution 2.8).
func refusedAs(err error, code string) bool {
	var s remoteerrors.ErrUnexpectedStatus
	var body struct {
		Errors []struct{ Code string }
	}
	return errors.As(err, &s) && json.Unmarshal(s.Body, &body) == nil && len(body.Errors) > 0 && body.Errors[0].Code == code
}

// registryMessage returns the registry's own words, as ", it says: ...", or "".
func registryMessage(err error) string {
	var list docker.Errors
	if !errors.As(err, &list) || len(list) == 0 {
		return ""
	}
	msg := scrub(list[0].Error())
	if len(msg) > 300 {
		msg = msg[:300] + "..."
	}
	return fmt.Sprintf(", it says %q", msg)
}

var (
	queries  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\?[^\s"']+`) })
	userinfo = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`//[^/@\s"']+@`) })
)

// scrub takes what may be secret out of a text, the queries of addresses, which hold the
// signatures of redirected downloads, and passwords before an "@"; and what commands a terminal.
func scrub(s string) string {
	return userinfo().ReplaceAllString(queries().ReplaceAllString(outbound.Clean(s), "?..."), "//...@")
}
