package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// session is an upload that a registry waits for. (OCI distribution specification, "Pushing
// blobs": POST begins it, PATCH adds bytes, PUT completes it, GET tells how far it is.)
type session struct {
	location string
	foreign  bool  // location is at another host
	offset   int64 // bytes that the registry has
}

// beginUpload asks for an upload.
func (e *endpoint) beginUpload(ctx context.Context) (*session, error) {
	resp, err := e.do(ctx, request{method: http.MethodPost, url: e.url("blobs/uploads/")})
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	if err := wantStatus(resp, http.StatusAccepted); err != nil {
		return nil, err
	}
	return e.newSession(resp)
}

// mount asks for a blob to be shared by another repository. If it is not, an upload has begun.
func (e *endpoint) mount(ctx context.Context, d digest.Digest, from string) (s *session, mounted bool, err error) {
	resp, err := e.do(ctx, request{
		method: http.MethodPost, mount: from,
		url: withQuery(e.url("blobs/uploads/"), url.Values{"mount": {d.String()}, "from": {from}}),
	})
	if err != nil {
		return nil, false, err
	}
	defer drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return nil, true, nil
	}
	if err := wantStatus(resp, http.StatusAccepted); err != nil {
		return nil, false, err
	}
	s, err = e.newSession(resp)
	return s, false, err
}

func (e *endpoint) newSession(resp *http.Response) (*session, error) {
	s := &session{}
	if err := s.move(e, resp); err != nil {
		return nil, err
	}
	if s.location == "" {
		return nil, errors.New("the registry begins an upload and does not say where")
	}
	return s, nil
}

// move takes over where the upload goes on, if the registry says so.
func (s *session) move(e *endpoint, resp *http.Response) error {
	location := resp.Header.Get("Location")
	if location == "" {
		return nil
	}
	if !strings.HasPrefix(location, "/") && !strings.Contains(location, "://") {
		location = e.host.Scheme + "://" + location // some registries leave it out
	}
	// The address that was asked at last, not the one that was wanted: plain HTTP may have stood in
	// for HTTPS on loopback, and registries behind a proxy do not know that they are asked by HTTPS.
	asked := resp.Request.URL
	u, err := asked.Parse(location)
	if err != nil {
		return fmt.Errorf("the registry gives an upload the address %q: %w", location, err)
	}
	s.foreign = plainHost(u.Host) != plainHost(e.host.Host)
	if !s.foreign {
		u.Scheme = e.host.Scheme
	} else if u.Scheme != "https" && e.host.Scheme == "https" && asked.Scheme == "https" {
		return fmt.Errorf("the registry wants the upload at %s, which is not encrypted", u.Redacted())
	}
	s.location = u.String()
	return nil
}

// plainHost leaves out the port that need not be written.
func plainHost(host string) string { return strings.TrimSuffix(host, ":443") }

// resume asks how much of the upload the registry has. False is an upload that it knows no more, or
// whose state it does not tell.
func (s *session) resume(ctx context.Context, e *endpoint) bool {
	resp, err := e.do(ctx, request{method: http.MethodGet, url: s.location, foreign: s.foreign})
	if err != nil {
		return false
	}
	defer drain(resp)
	if wantStatus(resp, http.StatusNoContent, http.StatusOK, http.StatusAccepted) != nil {
		return false
	}
	last, err := lastByte(resp.Header.Get("Range"))
	if err != nil || s.move(e, resp) != nil {
		return false
	}
	s.offset = last
	return true
}

// lastByte returns how many bytes a Range header of an upload speaks of. "0-0" is what registries
// say of none, although it may be one: then that byte is sent again, and refused or ignored.
func lastByte(header string) (int64, error) {
	_, end, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	if !ok {
		return 0, fmt.Errorf("range %q", header)
	}
	n, err := strconv.ParseInt(end, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("range %q", header)
	}
	if n == 0 {
		return 0, nil
	}
	return n + 1, nil
}

// send adds what body has to the upload, which then is size bytes long.
func (s *session) send(ctx context.Context, e *endpoint, body *uploadBody, size int64) error {
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if s.offset > 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", s.offset, size-1))
	}
	resp, err := e.do(ctx, request{
		method: http.MethodPatch, url: s.location, header: header, foreign: s.foreign, size: size - s.offset, single: true,
		body: func() (io.ReadCloser, error) { return body.open(ctx) },
	})
	if err != nil {
		return err
	}
	defer drain(resp)
	if err := wantStatus(resp, http.StatusAccepted, http.StatusNoContent, http.StatusCreated, http.StatusOK); err != nil {
		return err
	}
	s.offset = size
	return s.move(e, resp)
}

// sendWhole sends the blob and completes the upload in one request.
func (s *session) sendWhole(ctx context.Context, e *endpoint, body *uploadBody, d digest.Digest, size int64) error {
	resp, err := e.do(ctx, request{
		method: http.MethodPut, foreign: s.foreign, size: size, single: true,
		url:    withQuery(s.location, url.Values{"digest": {d.String()}}),
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   func() (io.ReadCloser, error) { return body.open(ctx) },
	})
	if err != nil {
		return err
	}
	defer drain(resp)
	return wantStatus(resp, http.StatusCreated, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
}

// takesWhole reports whether a host has refused to take a blob in parts, and notes that it did.
func (c *Client) takesWhole(host string, refused bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whole[host] = c.whole[host] || refused
	return c.whole[host]
}

// complete makes the upload a blob.
func (s *session) complete(ctx context.Context, e *endpoint, d digest.Digest) error {
	resp, err := e.do(ctx, request{
		method: http.MethodPut, foreign: s.foreign,
		url:    withQuery(s.location, url.Values{"digest": {d.String()}}),
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   func() (io.ReadCloser, error) { return http.NoBody, nil },
	})
	if err != nil {
		return err
	}
	defer drain(resp)
	return wantStatus(resp, http.StatusCreated, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
}

// cancel tells the registry that the upload is not wanted. It forgets it by itself, too.
func (s *session) cancel(ctx context.Context, e *endpoint) {
	if resp, err := e.do(ctx, request{method: http.MethodDelete, url: s.location, foreign: s.foreign}); err == nil {
		drain(resp)
	}
}

// uploadBody is the content of a blob from an offset on, as the body of a request that may be sent
// more than once. It is broken off when nobody reads it for long.
type uploadBody struct {
	push  *push
	from  int64
	watch *time.Timer

	mu  sync.Mutex
	err error // of the content
}

// failure is what was wrong with the content.
func (b *uploadBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *uploadBody) fail(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	return err
}

// open opens the content at the offset.
func (b *uploadBody) open(ctx context.Context) (io.ReadCloser, error) {
	b.watch.Stop() // opening may mean fetching it from elsewhere
	r, err := b.push.Open(ctx)
	if err != nil {
		return nil, b.fail(err)
	}
	if b.from > 0 {
		if seeker, ok := r.(io.Seeker); ok {
			_, err = seeker.Seek(b.from, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, r, b.from)
		}
	}
	if err != nil {
		return nil, b.fail(errors.Join(err, r.Close()))
	}
	b.watch.Reset(b.push.client.tune.pace.Stall)
	return &uploadReader{ReadCloser: r, body: b, at: b.from}, nil
}

// uploadReader reads the body of one request.
type uploadReader struct {
	io.ReadCloser
	body *uploadBody
	at   int64
}

func (r *uploadReader) Read(p []byte) (int, error) {
	push := r.body.push
	r.body.watch.Reset(push.client.tune.pace.Stall)
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	switch {
	case err == io.EOF && r.at != push.Desc.Size:
		return n, r.body.fail(fmt.Errorf("blob %s has %d bytes, want %d", push.Desc.Digest, r.at, push.Desc.Size))
	case err != nil && err != io.EOF:
		return n, r.body.fail(err)
	case err == io.EOF || r.at == push.Desc.Size:
		r.body.watch.Stop() // now it is the registry's turn, which may take long
	}
	if n > 0 && push.Progress != nil {
		push.Progress(r.at)
	}
	return n, err
}
