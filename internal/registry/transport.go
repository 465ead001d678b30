package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// transport stands between containerd's client and the network. It notes what each host
// answered, slows down when a registry asks for it, and bounds manifests.
type transport struct {
	next      http.RoundTripper
	patient   http.RoundTripper // for requests whose answer may take long
	userAgent string
	tune      tuning
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	op := operationOf(ctx)
	req = req.Clone(ctx)
	req.Header.Set("User-Agent", t.userAgent) // the token requests' too
	if req.Header.Get("Accept-Encoding") != "" {
		// containerd offers to decompress bodies, but resumes them at offsets of the
		// decompressed bytes, which a server counts otherwise.
		req.Header.Set("Accept-Encoding", "identity")
	}
	if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && op.tooMany() {
		return nil, errBreaks
	}
	next := t.next
	if req.Method == http.MethodPut || req.Method == http.MethodPatch {
		next = t.patient
	}
	paced, cancel := context.WithCancelCause(ctx)
	resp, err := next.RoundTrip(req.WithContext(paced))
	if err != nil {
		cancel(err)
		op.note(req.URL.Host, err.Error())
		return nil, plainDialError(err)
	}
	resp.Body = t.tune.pace.Body(resp.Body, cancel)
	if resp.StatusCode < 400 {
		op.note(req.URL.Host, "")
	} else {
		// The registry's own words may be anything.
		times := op.note(req.URL.Host, strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", http.StatusText(resp.StatusCode))))
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
			if err := t.obey(ctx, resp, times); err != nil {
				resp.Body.Close()
				return nil, err
			}
		}
	}
	if strings.Contains(req.URL.Path, "/manifests/") {
		return t.manifest(req, resp)
	}
	return resp, nil
}

// manifest bounds a manifest, and takes nothing for known that some registries get wrong.
func (t *transport) manifest(req *http.Request, resp *http.Response) (*http.Response, error) {
	limit := t.tune.manifests
	if resp.ContentLength > limit {
		resp.Body.Close()
		return nil, &tooBigError{what: "manifest", limit: limit, size: resp.ContentLength}
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: limit, tooBig: &tooBigError{what: "manifest", limit: limit}}
	if req.Method == http.MethodHead && resp.ContentLength == 0 {
		resp.ContentLength = -1 // no manifest is empty; containerd's client reads it to know its size
	}
	// That client takes text/plain for Docker's schema 1. What a manifest is its content tells.
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) == "text/plain" {
		resp.Header.Set("Content-Type", "application/json")
	}
	return resp, nil
}

// obey waits as a 429 asks for, because containerd's client repeats such a request at once, and as
// a 503 does if it says how long.
func (t *transport) obey(ctx context.Context, resp *http.Response, times int) error {
	limited := resp.StatusCode == http.StatusTooManyRequests
	if limited && times >= t.tune.attempts {
		return rateLimited(resp, "") // so that the client stops
	}
	d, asked := retryAfter(resp.Header.Get("Retry-After"))
	switch {
	case asked && d > t.tune.max && limited:
		return rateLimited(resp, fmt.Sprintf(" (it asks to wait for %s)", d))
	case asked && d > t.tune.max, !asked && !limited: // the usual pause comes anyway
		return nil
	case !asked:
		d = min(t.tune.base<<min(times, 10), t.tune.max)
	}
	return sleep(ctx, d)
}

// retryAfter reads the Retry-After header: seconds, or a date. (RFC 9110, 10.2.3)
func retryAfter(value string) (time.Duration, bool) {
	if s, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(s, 1<<20)) * time.Second, s >= 0
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(date)).Round(time.Second), true
	}
	return 0, false
}

// rateLimited is errRateLimit with the registry's own words.
func rateLimited(resp *http.Response, more string) error {
	err := fmt.Errorf("%w%s", errRateLimit, more)
	var words docker.Errors
	if errors.As(statusError(resp), &words) {
		return errors.Join(err, words)
	}
	return err
}

var errRateLimit = errors.New("the registry limits the rate of requests")

// tooBigError stops what is bigger than anything honest.
type tooBigError struct {
	what        string
	limit, size int64
}

func (e *tooBigError) Error() string {
	if e.size > 0 {
		return fmt.Sprintf("%s of %d bytes is larger than the limit of %d bytes", e.what, e.size, e.limit)
	}
	return fmt.Sprintf("%s is larger than the limit of %d bytes", e.what, e.limit)
}

// bounded fails when more than left bytes are read.
type bounded struct {
	io.ReadCloser
	left   int64
	tooBig *tooBigError
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.tooBig
	}
	return n, err
}

// plainDialError hides from containerd's client that a connection timed out while it was made:
// it would try five times, half a minute each, where the user waits for "unreachable".
func plainDialError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &dialError{err}
	}
	return err
}

type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// operation is one Resolve, Fetch, Push or Login: what it is about and what became of its requests.
type operation struct {
	name  reference.Named
	desc  ocispec.Descriptor // digest empty: the reference itself
	host  string             // the registry that the reference names
	push  bool
	login bool // the name has only the registry

	mu    sync.Mutex
	tried []*outcome
	asked int // requests for content since there was progress
}

// maxAsked is how often content is asked for without getting any further. Attempts are far fewer, but what
// begins as it should and soon ends is asked for again at once.
const maxAsked = 64

var errBreaks = errors.New("what the registry sends ends early, again and again")

// tooMany counts a request.
func (o *operation) tooMany() bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	return o.asked > maxAsked
}

// forgive begins to count anew.
func (o *operation) forgive() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = 0
}

// outcome is what a host answered last. A success leaves failure empty.
type outcome struct {
	host, failure string
	times         int // the same failure in a row
}

func newOperation(name reference.Named, desc ocispec.Descriptor) *operation {
	return &operation{name: name, desc: desc, host: reference.Domain(name)}
}

// note records the outcome of a request and returns how often it was the same in a row.
func (o *operation) note(host, failure string) int {
	if o == nil {
		return 1
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.tried {
		if t.host != host {
			continue
		}
		if t.failure != failure {
			t.failure, t.times = failure, 0
		}
		t.times++
		return t.times
	}
	o.tried = append(o.tried, &outcome{host: host, failure: failure, times: 1})
	return 1
}

// failures lists "host: failure" of each host that failed last, in the order of asking.
func (o *operation) failures() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []string
	for _, t := range o.tried {
		if t.failure == "" {
			continue
		}
		s := t.host + ": " + scrub(t.failure)
		if t.times > 1 {
			s += fmt.Sprintf(" (%d times)", t.times)
		}
		list = append(list, s)
	}
	return list
}

type operationKey struct{}

func withOperation(ctx context.Context, op *operation) context.Context {
	return context.WithValue(ctx, operationKey{}, op)
}

// operationOf returns the operation a request belongs to, or nil.
func operationOf(ctx context.Context) *operation {
	op, _ := ctx.Value(operationKey{}).(*operation)
	return op
}
