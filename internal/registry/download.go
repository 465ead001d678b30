package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// download reads a blob over as many connections as it takes.
//
// containerd's reader resumes by itself when a body ends early, at once and as long as the
// next request succeeds. It gives up on resets, errors of the next request and stalls; those
// are handled here, by a new reader at the offset reached, after a pause.
type download struct {
	ctx    context.Context
	client *Client
	op     *operation
	ref    string
	desc   ocispec.Descriptor
	place  *url.URL // nil: the registry has it

	body   io.ReadCloser           // nil: to be opened at off
	cancel context.CancelCauseFunc // ends the requests of body
	off    int64                   // bytes handed out
	mark   int64                   // off when failures were last forgotten
	fails  int                     // failures in a row without a byte between them
	err    error                   // sticky
}

var (
	errStalled = errors.New("the connection takes no data")
	errClosed  = errors.New("reading a closed download")
)

// sizeError is a blob that is longer or shorter than its descriptor says.
type sizeError struct{ got, want int64 }

func (e *sizeError) Error() string {
	if e.got > e.want {
		return fmt.Sprintf("more than the %d bytes that the manifest says", e.want)
	}
	return fmt.Sprintf("it ends after %d of %d bytes", e.got, e.want)
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	if d.err != nil || len(p) == 0 {
		return 0, d.err
	}
	n, err := d.read(p)
	if err != nil {
		d.drop(err)
		if err != io.EOF {
			err = d.client.explain(d.ctx, d.op, err)
		}
		d.err = err
	}
	return n, err
}

// Close implements io.Closer. It ends the transfer at once.
func (d *download) Close() error {
	d.drop(context.Canceled)
	if d.err == nil {
		d.err = errClosed
	}
	return nil
}

func (d *download) read(p []byte) (int, error) {
	for {
		if d.body == nil {
			if err := d.open(); err != nil {
				return 0, err
			}
		}
		n, err := d.body.Read(p)
		d.off += int64(n)
		switch {
		case d.off > d.desc.Size:
			return 0, &sizeError{got: d.off, want: d.desc.Size}
		case errdefs.IsFailedPrecondition(err): // containerd's reader read past the size, and keeps it to itself
			return 0, &sizeError{got: d.desc.Size + 1, want: d.desc.Size}
		case err == nil && n > 0:
			d.progress()
			return n, nil
		case err == nil:
			continue
		case err == io.EOF && d.off == d.desc.Size:
			return n, io.EOF
		}
		d.drop(err)
		if n > 0 {
			d.progress()
			return n, nil // the next Read opens again
		}
		if err := d.again(err); err != nil {
			return 0, err
		}
	}
}

// progress forgets what failed, unless too little has come since: a registry that breaks off after
// each byte would be asked for ever.
func (d *download) progress() {
	if d.off-d.mark >= d.client.tune.step {
		d.fails, d.mark = 0, d.off
		d.op.forgive()
	}
}

// again decides whether a failed transfer goes on, and waits before it does.
func (d *download) again(err error) error {
	d.fails++
	d.op.note(d.op.host, err.Error())
	if d.off > 0 && statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
		// The body ended as it should, containerd asked for more, and there is no more.
		return &sizeError{got: d.off, want: d.desc.Size}
	}
	if d.ctx.Err() != nil || !transient(err) {
		return err
	}
	if d.fails >= d.client.tune.attempts {
		if err == io.EOF { // each answer ended properly: the blob is too short
			return &sizeError{got: d.off, want: d.desc.Size}
		}
		return err
	}
	return d.client.pause(d.ctx, d.fails)
}

// open asks for the blob from d.off on, and returns when the answer has begun.
func (d *download) open() error {
	return d.client.retry(d.ctx, d.op, func(ctx context.Context) error {
		err := d.openAt(ctx, d.off)
		if d.off > 0 && statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
			// A registry that does not know open-ended ranges: read again what we have.
			if err = d.openAt(ctx, 0); err == nil {
				_, err = io.CopyN(io.Discard, d.body, d.off)
			}
			if err != nil {
				d.drop(err)
			}
		}
		return err
	})
}

func (d *download) openAt(ctx context.Context, off int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	fetch := d.fetch
	if d.place != nil {
		fetch = d.getPlace
	}
	body, err := fetch(ctx, off)
	if err != nil {
		cancel(err)
		return err
	}
	d.body, d.cancel = body, cancel
	return nil
}

// fetch asks the registry for the blob from off on.
func (d *download) fetch(ctx context.Context, off int64) (io.ReadCloser, error) {
	// A mirror whose downloads break without a byte is not asked first again.
	resolver, err := d.client.resolver(d.op.host, d.fails)
	if err != nil {
		return nil, err
	}
	fetcher, err := resolver.Fetcher(ctx, d.ref)
	if err != nil {
		return nil, err
	}
	body, err := fetcher.Fetch(ctx, d.desc)
	if err != nil {
		return nil, err
	}
	if seeker, ok := body.(io.Seeker); ok && off > 0 {
		if _, err := seeker.Seek(off, io.SeekStart); err != nil {
			return nil, errors.Join(err, body.Close())
		}
	}
	// The request is sent by the first Read; an empty one brings its error here.
	if _, err := body.Read(nil); err != nil && err != io.EOF {
		body.Close()
		return nil, err
	}
	return body, nil
}

// drop gives up the current connection.
func (d *download) drop(cause error) {
	if d.body != nil {
		d.cancel(cause)
		d.body.Close() // nothing was written; what was read has been counted
		d.body = nil
	}
}
