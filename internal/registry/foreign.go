package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/containerd/containerd/v2/core/images"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
)

// maxURLs is how many addresses of a layer are tried.
const maxURLs = 8

// elsewhere returns the addresses of a layer that registries need not have: one that may not be
// redistributed. Those of other content are ignored: a manifest does not get to choose which hosts this
// machine talks to.
func elsewhere(desc ocispec.Descriptor) []*url.URL {
	if !images.IsNonDistributable(desc.MediaType) {
		return nil
	}
	var list []*url.URL
	for _, s := range desc.URLs[:min(len(desc.URLs), maxURLs)] {
		if u, err := url.Parse(s); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
			u.User = nil
			list = append(list, u)
		}
	}
	return list
}

// openElsewhere opens a download at the first of the addresses that has it. notFound is the registry's
// answer, which stays the error when none has.
func (d *download) openElsewhere(urls []*url.URL, notFound error) error {
	if len(urls) == 0 {
		return notFound
	}
	for _, u := range urls {
		d.place = u
		err := d.open()
		if err == nil || d.ctx.Err() != nil {
			return err
		}
		d.op.note(u.Host, scrub(err.Error()))
	}
	return notFound
}

// getPlace asks the server at an address for the layer from off on. It is nobody's registry: it is told no
// credentials.
func (d *download) getPlace(ctx context.Context, off int64) (io.ReadCloser, error) {
	hosts, err := d.client.hostsOf(d.op.host)
	if err != nil {
		return nil, err
	}
	if n := len(hosts); n > 0 {
		ctx = outbound.Sent(ctx, &url.URL{Scheme: hosts[n-1].Scheme, Host: hosts[n-1].Host})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.place.String(), nil)
	if err != nil {
		return nil, err
	}
	if off > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(off, 10)+"-")
	}
	resp, err := d.client.anybody().Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK && off > 0: // it does not know ranges
		if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		defer resp.Body.Close()
		return nil, remoteerrors.NewUnexpectedStatusErr(resp)
	case off > 0 && resp.Header.Get("Content-Range") != "" && !outbound.StartsAt(resp, off):
		return nil, errors.Join(fmt.Errorf("the server answers with another range than the one from byte %d on", off), resp.Body.Close())
	}
	return resp.Body, nil
}

// anybody returns a client for servers that are no registries.
func (c *Client) anybody() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.others == nil {
		base := http.DefaultTransport.(*http.Transport).Clone()
		base.DisableKeepAlives = true // connections are for the registry that named the server
		c.others = &http.Client{Transport: c.transport(base, false), CheckRedirect: outbound.Redirect}
	}
	return c.others
}
