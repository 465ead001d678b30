// Package actions speaks to the cache service of GitHub Actions, in both of its versions: the one of
// "_apis/artifactcache", which GitHub's own servers of older versions and many stand-ins have, and that of
// twirp messages, whose blobs are in a store of Azure's.
//
// # Structure
//
// client.go: what is asked, and how often. token.go: what a job's token says. v1.go, v2.go: the two versions.
// keys.go: GitHub's REST API, which lists keys.
//
// # Invariants
//
// An entry is written once: it is reserved, filled and committed, and never changes. Whoever reserves a key
// second is told that it exists.
//
// The token goes to the service alone. Where blobs are is the service's to say, by addresses that are signed:
// these get no token, are followed by the rules of internal/outbound, and are in no error.
package actions

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Options say where the service is.
type Options struct {
	URL, Token string
	V2         bool
	// Timeout is how long a request is repeated that the service has no time for.
	Timeout time.Duration
}

// ErrExists says that a key is reserved, or has an entry.
var ErrExists = errors.New("the entry already exists")

// Entry is what the service has for a key.
type Entry struct {
	Key string
	at  *url.URL // signed
}

// Client is a client of the service. It is safe for concurrent use.
type Client struct {
	opts   Options
	base   *url.URL
	scopes []Scope
	http   *http.Client
	version
	Tune Tuning
}

// Tuning has the numbers that tests make small.
type Tuning struct {
	Attempts int           // of a request that fails by the connection or the server
	Base     time.Duration // the pause after the first failure; it doubles with each
	Max      time.Duration // the longest pause, and the longest Retry-After that is honoured
	Chunk    int           // bytes that are sent at once; they are in memory
	Pace     outbound.Pace
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil: by the address
}

// version is one of the two versions of the service.
type version interface {
	// find asks for the newest entry whose key begins with key; nil for none.
	find(ctx context.Context, c *Client, key string) (*Entry, error)
	// reserve asks for the place of an entry, which upload and commit are given. It is ErrExists when the
	// key is taken.
	reserve(ctx context.Context, c *Client, key string) (place string, err error)
	upload(ctx context.Context, c *Client, place string, r io.Reader, size int64) error
	commit(ctx context.Context, c *Client, key, place string, size int64) error
}

// New returns a client. Nothing is asked yet; the error is about the options.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("the url of the cache service is no http address")
	}
	scopes, err := scopesOf(o.Token)
	if err != nil {
		return nil, err
	}
	c := &Client{
		opts: o, base: base, scopes: scopes, version: v1{},
		Tune: Tuning{Attempts: 5, Base: 500 * time.Millisecond, Max: 90 * time.Second, Chunk: 8 << 20, Pace: outbound.DefaultPace},
	}
	if o.V2 {
		c.version = v2{}
	}
	c.http = c.newHTTP()
	return c, nil
}

// newHTTP makes a client for one server.
func (c *Client) newHTTP() *http.Client {
	return outbound.NewClient(func(t *http.Transport) {
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if c.Tune.Dial != nil {
				return c.Tune.Dial(ctx, network, address)
			}
			return dial(ctx, network, address)
		}
	})
}

// Scopes are what the token is for: refs of git, with what may be done to their entries.
func (c *Client) Scopes() []Scope { return c.scopes }

// Find looks for an entry by its key, or with prefix for the newest one whose key begins with it. It is nil
// when there is none.
func (c *Client) Find(ctx context.Context, key string, prefix bool) (*Entry, error) {
	e, err := c.find(ctx, c, key)
	// The service looks for keys that begin with the one that is asked for, whatever it is asked.
	if err != nil || e == nil || e.Key != key && !(prefix && strings.HasPrefix(e.Key, key)) {
		return nil, err
	}
	return e, nil
}

// Open reads an entry from an offset on. What it gives is not verified, and may be endless.
func (c *Client) Open(ctx context.Context, e *Entry, offset int64) (io.ReadCloser, error) {
	r := request{method: http.MethodGet, to: e.at, header: http.Header{}, what: "downloading"}
	if offset > 0 {
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if offset > 0 && !outbound.StartsAt(resp, offset) {
		resp.Body.Close()
		return nil, fmt.Errorf("downloading: asked for what comes after %d bytes, got something else (%d): %w", offset, resp.StatusCode, errdefs.ErrDataLoss)
	}
	return resp.Body, nil
}

// Save makes an entry of size bytes. It is ErrExists when somebody else has, or is about to.
func (c *Client) Save(ctx context.Context, key string, size int64, r io.Reader) error {
	place, err := c.reserve(ctx, c, key)
	if err != nil {
		return err
	}
	if err := c.upload(ctx, c, place, r, size); err != nil {
		return err
	}
	return c.commit(ctx, c, key, place, size)
}

// chunks hands a reader's bytes on in parts.
func (c *Client) chunks(r io.Reader, size int64, send func(offset int64, data []byte) error) error {
	buf := make([]byte, min(size, int64(c.Tune.Chunk)))
	for offset := int64(0); offset < size; {
		n, err := io.ReadFull(r, buf[:min(size-offset, int64(len(buf)))])
		if err != nil {
			return fmt.Errorf("reading what is to be uploaded: %w", err)
		}
		if err := send(offset, buf[:n]); err != nil {
			return err
		}
		offset += int64(n)
	}
	// What is read to its end has been verified.
	n, err := io.Copy(io.Discard, io.LimitReader(r, 1))
	if err == nil && n > 0 {
		err = fmt.Errorf("it has more than %d bytes", size)
	}
	if err != nil {
		return fmt.Errorf("reading what is to be uploaded: %w", err)
	}
	return nil
}

// versionOf is the "version" of all entries of BuildKit's library: a hash of what another cache of the same
// key would be told apart by.
func versionOf() string {
	sum := sha256.Sum256([]byte("|go-actionscache-1.0"))
	return hex.EncodeToString(sum[:])
}

// request is one request. Its body is in memory, so that it can be sent again.
type request struct {
	method string
	to     *url.URL
	header http.Header
	body   []byte
	own    bool   // it is for the service, with the token; others are for where the service sent us
	once   bool   // it is not sent again when nobody knows whether it was heard
	what   string // that is done
}

// message makes a request to the service with a JSON body; v may be nil.
func (c *Client) message(what, method, path string, v any) (request, error) {
	r := request{method: method, to: c.base.JoinPath(path), own: true, what: what, header: http.Header{}}
	r.header.Set("Authorization", "Bearer "+c.opts.Token)
	r.header.Set("User-Agent", "slipway")
	if v == nil {
		return r, nil
	}
	r.header.Set("Content-Type", "application/json")
	var err error
	r.body, err = json.Marshal(v)
	return r, err
}

// maxAnswer is the size in bytes of the largest answer of the service that is read.
const maxAnswer = 32 << 10

// ask sends a request and decodes the answer; one without a body leaves v as it is.
func (c *Client) ask(ctx context.Context, r request, v any) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("%s: reading the answer of %s: %w", r.what, r.to.Host, err)
	}
	if len(data) == 0 || v == nil {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: the answer of %s is no JSON that is known: %w", r.what, r.to.Host, errdefs.ErrDataLoss)
	}
	return nil
}

// do sends a request until it is answered with success. Like BuildKit it is patient with a service that
// limits the rate of requests, for as long as the timeout says.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	end := time.Now().Add(c.opts.Timeout)
	for n := 1; ; n++ {
		resp, err := c.try(ctx, r)
		if err == nil || ctx.Err() != nil {
			return resp, err
		}
		wait := min(c.Tune.Base<<min(n-1, 20), c.Tune.Max)
		var status *statusError
		switch limited := errors.As(err, &status) && status.code == http.StatusTooManyRequests; {
		case limited && status.after <= c.Tune.Max:
			if wait = max(wait, status.after); time.Now().Add(wait).After(end) {
				return nil, err
			}
		case limited, r.once, n >= c.Tune.Attempts, !mayHelp(err):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// mayHelp tells whether trying again may help. A host that cannot be reached stays that.
func mayHelp(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500
	}
	return !outbound.IsUnreachable(err)
}

func (c *Client) try(ctx context.Context, r request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	if !r.own {
		ctx = outbound.Sent(ctx, c.base)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.to.String(), bytes.NewReader(r.body))
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("%s: the address of %s is not valid", r.what, r.to.Host)
	}
	req.Header = r.header.Clone()
	resp, err := c.http.Do(req)
	if err != nil {
		cancel(nil)
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the address may be signed
		}
		return nil, fmt.Errorf("%s: asking %s: %w: %w", r.what, r.to.Host, err, errdefs.ErrUnavailable)
	}
	resp.Body = c.Tune.Pace.Body(resp.Body, cancel)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(r, resp)
}

// statusError is a refusal.
type statusError struct {
	code  int
	text  string
	kind  error
	after time.Duration // that the server asks to wait
}

func (e *statusError) Error() string { return e.text }
func (e *statusError) Unwrap() error { return e.kind }

// refusal makes an error of an answer, with what a service says of it in either version.
func (c *Client) refusal(r request, resp *http.Response) error {
	e := &statusError{code: resp.StatusCode, kind: errdefs.ErrUnknown}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.after = time.Duration(min(s, 1<<20)) * time.Second
	}
	e.text = strings.TrimSpace(fmt.Sprintf("%s: %s answered %d %s", r.what, r.to.Host, e.code, http.StatusText(e.code)))
	var words struct{ Code, Msg, TypeKey, Message string }
	if r.own {
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &words) //nolint:errcheck // then it says nothing
		if text := c.clean(words.Msg + words.Message); text != "" {
			e.text += ": " + text
		}
	}
	switch {
	case words.Code == "already_exists", strings.Contains(words.TypeKey, "AlreadyExists"),
		strings.Contains(strings.ToLower(words.Message+words.Msg), "already exists"):
		e.kind = ErrExists
	case e.code == http.StatusNotFound, e.code == http.StatusGone, !r.own && e.code < 500 && e.code != http.StatusTooManyRequests:
		e.kind = errdefs.ErrNotFound // also an address that is not valid any more
	case e.code == http.StatusUnauthorized:
		e.kind = errdefs.ErrUnauthenticated
	case e.code == http.StatusForbidden:
		e.kind = errdefs.ErrPermissionDenied
	case e.code >= 500, e.code == http.StatusTooManyRequests:
		e.kind = errdefs.ErrUnavailable
	}
	return e
}

// clean makes words of the service's fit to be shown: short, and without the token.
func (c *Client) clean(s string) string {
	s = outbound.Clean(strings.ReplaceAll(s, c.opts.Token, "xxxxx"))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return strings.Join(strings.Fields(s), " ")
}

// entry makes an entry of what the service says.
func entry(key, at string) (*Entry, error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("the cache service gives no address for %q: %w", key, errdefs.ErrDataLoss)
	}
	return &Entry{Key: key, at: u}, nil
}
