package httpsource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
)

// conversation is what is said to a server of one URL.
type conversation struct {
	*Source
	r      *Request
	env    Env
	header http.Header
	known  []*answer // what it said at other times, the last first
}

// client returns the client for the server of a URL. Servers have no connections in common: what one of
// them was allowed to reach is not another's.
func (s *Source) client(u *url.URL) *http.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	origin := outbound.Origin(u)
	if s.clients[origin] == nil {
		s.clients[origin] = outbound.NewClient(func(t *http.Transport) { t.ResponseHeaderTimeout = headerTimeout })
	}
	return s.clients[origin]
}

func (c *conversation) request(ctx context.Context, method string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.r.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	var tags []string
	for _, a := range c.known {
		if a.ETag != "" {
			tags = append(tags, a.ETag)
		}
	}
	switch {
	case len(tags) > 0:
		req.Header.Set("If-None-Match", strings.Join(tags, ", "))
	case len(c.known) > 0 && c.known[0].Strong:
		req.Header.Set("If-Modified-Since", c.known[0].Modified)
	}
	return req, nil
}

// tagged returns the answer with an ETag; nil when there is none. Where the server did not say one, and only one file can be
// meant, it is that one.
func (c *conversation) tagged(tag string) *answer {
	if tag == "" && len(c.known) == 1 {
		return c.known[0]
	}
	for _, a := range c.known {
		if tag != "" && a.ETag == tag {
			return a
		}
	}
	return nil
}

// head asks whether the file is still the one that is known. Whatever goes wrong, get finds out.
func (c *conversation) head(ctx context.Context) *answer {
	if !slices.ContainsFunc(c.known, func(a *answer) bool { return a.ETag != "" }) {
		return nil
	}
	req, err := c.request(ctx, http.MethodHead)
	if err != nil {
		return nil
	}
	// Some servers have other ETags for other encodings, and net/http asks for one in GET only.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := c.client(req.URL).Do(req)
	if err != nil {
		return nil
	}
	resp.Body.Close()
	tag := etag(resp)
	if resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusOK && tag != "" {
		return c.tagged(tag)
	}
	return nil
}

// get fetches the file unless it is the one that is known, and tries again what may go better.
func (c *conversation) get(ctx context.Context) (*answer, error) {
	for n := 1; ; n++ {
		a, err := c.try(ctx)
		if err == nil || n >= c.tune.attempts || ctx.Err() != nil {
			return a, err
		}
		wait, ok := c.again(err, n)
		if !ok {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// again tells whether trying again may help, and when. A host that cannot be reached or that is not
// the right one stays that.
func (c *conversation) again(err error, n int) (time.Duration, bool) {
	wait := min(c.tune.base<<(n-1), c.tune.max)
	var status *statusError
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &status):
		if status.after > c.tune.max {
			return 0, false
		}
		return max(wait, status.after), status.code == http.StatusTooManyRequests || status.code >= 500
	case errors.As(err, &dns):
		return wait, dns.IsTemporary
	case outbound.IsUnreachable(err), errors.As(err, &cert), errors.Is(err, errDisk), errdefs.IsDataLoss(err):
		return 0, false
	}
	// What is left is a connection that broke or a server that speaks badly.
	return wait, true
}

// errDisk marks failures that are not the server's.
var errDisk = errors.New("keeping the file")

func (c *conversation) try(ctx context.Context) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := c.request(ctx, http.MethodGet)
	if err != nil {
		return nil, err
	}
	resp, err := c.client(req.URL).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && len(c.known) > 0:
		return c.notModified(req, resp)
	case resp.StatusCode < 200 || resp.StatusCode >= 300:
		return nil, newStatusError(resp)
	}
	a := &answer{ETag: etag(resp), Disposition: resp.Header.Get("Content-Disposition")}
	if when, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		a.Modified = resp.Header.Get("Last-Modified")
		// RFC 9110, 8.8.2.2: it tells versions apart when the server's clock went on since.
		date, err := http.ParseTime(resp.Header.Get("Date"))
		a.Strong = err == nil && date.Sub(when) >= time.Second
	}
	body := &meter{r: c.tune.pace.Body(resp.Body, cancel), total: max(resp.ContentLength, 0), tell: c.env.Progress}
	desc, err := c.store.AddBlob(ctx, body, func(d ocispec.Descriptor) error { return c.r.check(d.Digest) })
	if err != nil {
		if body.err == nil && !errdefs.IsDataLoss(err) {
			err = fmt.Errorf("%w: %w", errDisk, err)
		}
		return nil, err
	}
	a.Digest, a.Size = desc.Digest, desc.Size
	return a, nil
}

// notModified finds the file that the server says to be the one that is known.
func (c *conversation) notModified(req *http.Request, resp *http.Response) (*answer, error) {
	if req.Header.Get("If-Modified-Since") != "" && etag(resp) == "" {
		return c.known[0], nil
	}
	a := c.tagged(etag(resp))
	if a == nil && etag(resp) == "" {
		c.known = nil // the next attempt asks for the file, whatever is known
	}
	if a == nil {
		return nil, fmt.Errorf("invalid not-modified ETag: %q", etag(resp))
	}
	return a, nil
}

// etag is the answer's ETag, strong or weak.
func etag(resp *http.Response) string { return strings.TrimPrefix(resp.Header.Get("ETag"), "W/") }

// statusError is an answer that is no file.
type statusError struct {
	code  int
	text  string
	after time.Duration // that the server asks to wait
}

func newStatusError(resp *http.Response) *statusError {
	// The server's own words are not shown to a terminal.
	e := &statusError{code: resp.StatusCode, text: strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", http.StatusText(resp.StatusCode)))}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.after = time.Duration(min(s, 1<<20)) * time.Second
	}
	return e
}

// Error has BuildKit's words.
func (e *statusError) Error() string { return "invalid response status " + e.text }

func (e *statusError) Unwrap() error {
	switch e.code {
	case http.StatusNotFound, http.StatusGone:
		return errdefs.ErrNotFound
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	}
	return errdefs.ErrUnavailable
}

// meter reports how far a file is, and remembers whether reading it failed.
type meter struct {
	r        io.Reader
	n, total int64
	tell     func(current, total int64)
	err      error
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.tell != nil {
		m.tell(m.n, m.total)
	}
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}
