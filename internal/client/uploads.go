package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/upload"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/outbound"
	httpsource "github.com/slipway-build/slipway/internal/source/http"
)

var _ httpsource.Uploads = (*Client)(nil)

// Upload implements [httpsource.Uploads]. The client sends a file once.
func (c *Client) Upload(ctx context.Context, name string) (httpsource.Upload, error) {
	c.mu.Lock()
	if c.uploads == nil {
		c.mu.Unlock()
		return httpsource.Upload{}, errClosed
	}
	f := c.uploads[name]
	if f == nil {
		number := len(c.uploads)
		f = begin(func() (httpsource.Upload, error) { return c.takeUpload(name, number) })
		c.uploads[name] = f
	}
	c.mu.Unlock()
	return f.wait(ctx)
}

func (c *Client) takeUpload(name string, number int) (up httpsource.Upload, err error) {
	doing := fmt.Sprintf("fetching http://%s/%s of the client", httpsource.UploadHost, outbound.Clean(name))
	method := session.MethodURL(upload.Upload_ServiceDesc.ServiceName, "pull")
	err = c.each(c.ctx, method, nil, func(caller session.Caller) error {
		path, err := c.tempFile(fmt.Sprintf("upload-%d", number))
		if err != nil {
			return err
		}
		from, err := upload.New(c.ctx, caller, &url.URL{Scheme: "http", Host: httpsource.UploadHost, Path: "/" + name})
		if err != nil {
			return explain(c.ctx, err, "%s", doing)
		}
		if up, err = c.saveUpload(path, from); errors.As(err, new(*os.PathError)) {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if err = explain(c.ctx, err, "%s", doing); err != nil && up.Size == 0 && !errors.Is(err, ErrGone) && c.ctx.Err() == nil {
			err = &failure{err.Error(), errNotServed} // the client says so with a status that says nothing
		}
		return err
	})
	switch {
	case err == errNotServed:
		err = &failure{fmt.Sprintf("%s: the build has no upload %q", doing, outbound.Clean(name)), errdefs.ErrNotFound}
	case errors.Is(err, errNotServed):
		err = &failure{err.Error(), errdefs.ErrNotFound}
	}
	return up, err
}

// saveUpload writes a file down, with the client's temporary ones.
func (c *Client) saveUpload(path string, from io.WriterTo) (up httpsource.Upload, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return up, err
	}
	h, out := newHash(), layer.NewSparseWriter(f)
	up.Size, err = from.WriteTo(io.MultiWriter(h, out, counter{c}))
	if err = errors.Join(err, out.Flush(), f.Close()); err != nil {
		return up, errors.Join(err, os.Remove(path))
	}
	up.Path, up.Digest = path, digest.NewDigest(digest.SHA256, h)
	return up, nil
}

// counter counts what a client sends.
type counter struct{ client *Client }

func (c counter) Write(p []byte) (int, error) {
	c.client.received.Add(int64(len(p)))
	return len(p), nil
}
