package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipway-build/slipway/internal/outbound"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
)

// Blobs are a store of blobs of the client's: an OCI layout that a build reads, a directory for a cache, the layout that an
// image is written to as a directory. What is read is to be compared with its digest by who reads it.
type Blobs struct {
	client  *Client
	session string
	id      string
}

var (
	_ imagesource.Layout  = (*Blobs)(nil)
	_ imagesource.Layouts = (*Client)(nil)
)

// Names of stores: where an image is written as a directory, and what begins those of directories of caches, by their paths, and of
// layouts, by the IDs that sources have for them.
const (
	ExportStore = "export"
	CacheStore  = "local:"
	layoutStore = "oci:"
)

// Blobs returns a store by its name and by the session that has it; "" is any one.
func (c *Client) Blobs(sessionID, id string) *Blobs { return &Blobs{c, sessionID, id} }

// Layout implements [imagesource.Layouts].
func (c *Client) Layout(sessionID, id string) (imagesource.Layout, error) {
	return c.Blobs(sessionID, layoutStore+id), nil
}

// Name implements [imagesource.Layout].
func (b *Blobs) Name() string {
	return fmt.Sprintf("%q of the client (%d)", outbound.Clean(b.id), b.client.number)
}

// with calls fn with the store, of the first session that has it.
func (b *Blobs) with(ctx context.Context, doing string, fn func(s content.Store) error) error {
	err := b.client.each(ctx, "", []string{b.session}, func(caller session.Caller) error {
		err := fn(sessioncontent.NewCallerStore(caller, b.id))
		if ctx.Err() == nil && (errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err)) {
			return &failure{doing + ": " + words(err), errNotServed}
		}
		if errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", doing, ErrGone)
		}
		return explain(ctx, err, "%s", doing)
	})
	if errors.Is(err, errNotServed) {
		return &failure{err.Error(), fs.ErrNotExist}
	}
	return err
}

func (b *Blobs) doing(what string, d digest.Digest) string {
	return fmt.Sprintf("%s %s of the client's store %q", what, d, outbound.Clean(b.id))
}

// Open implements [imagesource.Layout]. A blob that is not there is fs.ErrNotExist.
func (b *Blobs) Open(ctx context.Context, d digest.Digest) (r io.ReadCloser, err error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	doing := b.doing("reading", d)
	ctx, cancel := b.client.bound(ctx, 0)
	err = b.with(ctx, doing, func(s content.Store) error {
		at, err := s.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
		if err != nil {
			return err
		}
		if at.Size() < 0 {
			return fmt.Errorf("it has %d bytes", at.Size())
		}
		r = &blobReader{Reader: bufio.NewReaderSize(&counting{io.NewSectionReader(at, 0, at.Size()), b.client}, blobBuffer), at: at, ctx: ctx, cancel: cancel, doing: doing}
		return nil
	})
	if err != nil {
		cancel()
	}
	return r, err
}

// blobBuffer is how much is read of a blob by one call.
const blobBuffer = 1 << 20

// counting counts what is read of a client.
type counting struct {
	io.Reader
	client *Client
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.client.received.Add(int64(n))
	return n, err
}

// blobReader is a reader whose errors say what was done.
type blobReader struct {
	io.Reader
	at     content.ReaderAt
	ctx    context.Context
	cancel context.CancelFunc
	doing  string
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = explain(r.ctx, err, "%s", r.doing)
	}
	return n, err
}

func (r *blobReader) Close() error {
	err := r.at.Close()
	r.cancel()
	return err
}

// Has reports whether the store has a blob.
func (b *Blobs) Has(ctx context.Context, d digest.Digest) (has bool, _ error) {
	err := b.with(ctx, b.doing("looking for", d), func(s content.Store) error {
		_, err := s.Info(ctx, d)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Write puts a blob into the store, which compares it with its digest, unless it is there.
func (b *Blobs) Write(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	ctx, cancel := b.client.bound(ctx, 0)
	defer cancel()
	return b.with(ctx, b.doing("writing", desc.Digest), func(s content.Store) error {
		return content.WriteBlob(ctx, s, "slipway-"+desc.Digest.String(), r, desc)
	})
}
