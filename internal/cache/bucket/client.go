// Package bucket reads and writes objects of S3, and of what speaks like it: whole objects, by a GET, a HEAD, a
// PUT or a copy of each.
//
// # Structure
//
// client.go: requests. keys.go: whose they are. The signature, and looking for credentials, are minio-go's.
//
// # Invariants
//
// Keys sign requests, and are sent to nobody. No redirect is followed: a request is signed for one host. What is
// written has its SHA-256 in the signature, so that the server verifies it.
package bucket

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/minio/minio-go/v7/pkg/signer"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/outbound"
)

// Options say which bucket, and who asks.
type Options struct {
	Bucket, Region string
	// Endpoint is an address in place of Amazon's. PathStyle has the bucket's name in paths, and not in the
	// name of the host.
	Endpoint  string
	PathStyle bool
	// Attempts is how often a request is sent at most; 0 for three times.
	Attempts int
	Keys     Keys
}

// MaxObject is the size in bytes of the largest object that S3 takes, or copies, at once.
const MaxObject = 5 << 30

// Client is a client of a bucket. It is safe for concurrent use.
type Client struct {
	opts  Options
	base  url.URL // of the bucket
	http  *http.Client
	creds *credentials.Credentials
	asked *credentials.CredContext
	pause time.Duration // after the first failure; it doubles with each

	mu   sync.Mutex
	keys credentials.Value // that were found last
}

// dnsName is a bucket's name that can be part of a host's.
var dnsName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`) })

// New returns a client. Nothing is asked yet; the error is about the options.
func New(o Options) (*Client, error) {
	if o.Attempts == 0 {
		o.Attempts = 3
	}
	if o.Endpoint == "" {
		o.Endpoint = "https://s3." + o.Region + ".amazonaws.com"
		if strings.HasPrefix(o.Region, "cn-") {
			o.Endpoint += ".cn"
		}
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("the endpoint of the bucket is no http address")
	}
	c := &Client{opts: o, base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, pause: 500 * time.Millisecond}
	if o.PathStyle || net.ParseIP(u.Hostname()) != nil || !dnsName().MatchString(o.Bucket) {
		c.base.Path += "/" + o.Bucket
	} else {
		c.base.Host = o.Bucket + "." + c.base.Host
	}
	c.http = outbound.NewClient(func(t *http.Transport) { t.ResponseHeaderTimeout = 5 * time.Minute }) // a copy may take long
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.creds, c.asked = o.Keys.find(o.Region), keyContext()
	return c, nil
}

// request is a request for an object.
type request struct {
	doing, method, key string
	header             http.Header
	hash               digest.Digest // of the body
	size               int64
	open               func(context.Context) (io.ReadCloser, error) // the body, each time that it is sent; nil for none
}

// Open reads an object from an offset on. What it gives is not verified, and may be endless.
func (c *Client) Open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r := request{doing: "reading", method: http.MethodGet, key: key, header: http.Header{}}
	if offset > 0 {
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if offset > 0 && !outbound.StartsAt(resp, offset) {
		resp.Body.Close()
		return nil, fmt.Errorf("reading %s: asked for what comes after %d bytes, got something else (%d): %w", key, offset, resp.StatusCode, errdefs.ErrDataLoss)
	}
	return resp.Body, nil
}

// Stat tells an object's size, and when it was written. The error is errdefs.ErrNotFound when there is none.
func (c *Client) Stat(ctx context.Context, key string) (int64, time.Time, error) {
	resp, err := c.do(ctx, request{doing: "looking up", method: http.MethodHead, key: key})
	if err != nil {
		return 0, time.Time{}, err
	}
	when, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, when, fmt.Errorf("looking up %s: %w", key, err)
	}
	return resp.ContentLength, when, nil
}

// Put writes an object, in place of the one that is there.
func (c *Client) Put(ctx context.Context, key string, hash digest.Digest, size int64, open func(context.Context) (io.ReadCloser, error)) error {
	if size > MaxObject {
		return fmt.Errorf("writing %s: it has %d bytes, and an object at most %d", key, size, int64(MaxObject))
	}
	resp, err := c.do(ctx, request{doing: "writing", method: http.MethodPut, key: key, hash: hash, size: size, open: open})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Touch makes an object new by copying it onto itself.
func (c *Client) Touch(ctx context.Context, key string) error {
	resp, err := c.do(ctx, request{doing: "touching", method: http.MethodPut, key: key, header: http.Header{
		"X-Amz-Copy-Source":        {s3utils.EncodePath(c.opts.Bucket + "/" + key)},
		"X-Amz-Metadata-Directive": {"REPLACE"},
		"X-Amz-Meta-Updated-At":    {time.Now().UTC().Format(time.RFC3339)},
	}})
	if err != nil {
		return err
	}
	// An error may come after the status.
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	err = errors.Join(err, resp.Body.Close())
	if words := say(data); err == nil && words != "" {
		err = errors.New(c.clean(words))
	}
	if err != nil {
		return fmt.Errorf("touching %s of bucket %s: %w", key, c.opts.Bucket, err)
	}
	return nil
}

// do sends a request until it is answered with success.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := c.try(ctx, r)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if n >= c.opts.Attempts || !errdefs.IsUnavailable(err) || outbound.IsUnreachable(err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(c.pause<<min(n-1, 10), 20*time.Second)):
		}
	}
}

func (c *Client) try(ctx context.Context, r request) (*http.Response, error) {
	keys, err := c.findKeys()
	if err != nil {
		return nil, fmt.Errorf("looking for keys of bucket %s: %s", c.opts.Bucket, c.clean(err.Error()))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := c.build(ctx, r)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if keys.AccessKeyID != "" {
		req = signer.SignV4(*req, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, c.opts.Region)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		cancel(nil)
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("%s %s: asking %s: %w: %w", r.doing, r.key, req.URL.Host, err, errdefs.ErrUnavailable)
	}
	resp.Body = outbound.DefaultPace.Body(resp.Body, cancel)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(r, resp)
}

// build makes a request, its body opened.
func (c *Client) build(ctx context.Context, r request) (*http.Request, error) {
	u := c.base
	u.Path += "/" + r.key
	u.RawPath = s3utils.EncodePath(u.Path) // as it is signed
	hash := r.hash
	if hash == "" {
		hash = digest.FromBytes(nil)
	}
	var body io.ReadCloser
	if r.open != nil {
		var err error
		if body, err = r.open(ctx); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		if body != nil {
			body.Close()
		}
		return nil, fmt.Errorf("%s %s: the address of bucket %s is not valid", r.doing, r.key, c.opts.Bucket)
	}
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	req.Header.Set("User-Agent", "slipway")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("X-Amz-Content-Sha256", hash.Encoded())
	if req.ContentLength = r.size; r.size == 0 && body != nil {
		body.Close()
		req.Body = http.NoBody
	}
	return req, nil
}

// maxMessage is the size in bytes of the largest answer that is no object.
const maxMessage = 64 << 10

// refusal makes an error of an answer.
func (c *Client) refusal(r request, resp *http.Response) error {
	text := fmt.Sprintf("%s %s of bucket %s: %d %s", r.doing, r.key, c.opts.Bucket, resp.StatusCode, http.StatusText(resp.StatusCode))
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	said := say(data)
	if words := c.clean(said); words != "" {
		text += ": " + words
	}
	kind := errdefs.ErrFailedPrecondition
	e := &refusal{text: text, kind: kind}
	switch code := resp.StatusCode; {
	case code == http.StatusForbidden && r.method != http.MethodPut && (said == "" || strings.HasPrefix(said, "AccessDenied")):
		e.kind, e.hidden = errdefs.ErrNotFound, true
	case code == http.StatusNotFound:
		e.kind = errdefs.ErrNotFound
	case code == http.StatusForbidden:
		e.kind = errdefs.ErrPermissionDenied
	case code == http.StatusUnauthorized:
		e.kind = errdefs.ErrUnauthenticated
	case code >= 500, code == http.StatusTooManyRequests:
		e.kind = errdefs.ErrUnavailable
	}
	return e
}

// refusal is an error with a category whose name is not part of the text.
type refusal struct {
	text   string
	kind   error
	hidden bool
}

// Hidden reports whether an error is the answer 403 about an object that may be there or not. Who has no permission to list
// a bucket gets it for what is not there, so it is an errdefs.ErrNotFound as well. An answer to HEAD does not say
// more, so that it may also be about the keys: then a write is refused, in words.
func Hidden(err error) bool {
	var e *refusal
	return errors.As(err, &e) && e.hidden
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.kind }

// say is what a message says of an error; "" for none.
func say(message []byte) string {
	var e struct {
		XMLName xml.Name `xml:"Error"`
		Code    string   `xml:"Code"`
		Message string   `xml:"Message"`
	}
	if xml.Unmarshal(message, &e) != nil {
		return ""
	}
	return strings.TrimSpace(e.Code + " " + e.Message)
}

// clean makes words of the server's fit to be shown: short, and without keys.
func (c *Client) clean(s string) string {
	c.mu.Lock()
	keys := c.keys
	c.mu.Unlock()
	for _, secret := range []string{keys.SecretAccessKey, keys.SessionToken} {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "xxxxx")
		}
	}
	if s = strings.Join(strings.Fields(outbound.Clean(s)), " "); len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}
