package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// readIndex reads a config that has no digest to be known by.
func readIndex(r io.ReadCloser) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("reading cache config: %w", err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("the cache config is too large (> %d)", maxConfig)
	}
	return data, nil
}

// maxResumes is how often a blob is asked for again that broke off.
const maxResumes = 4

// resumed reads a blob, from where it broke off when that happens.
type resumed struct {
	ctx    context.Context
	open   func(ctx context.Context, offset int64) (io.ReadCloser, error)
	body   io.ReadCloser
	offset int64
	size   int64 // -1: where it ends the server knows
	broken int
}

// resume opens something of a size, or of one that only the server knows (-1), from its beginning.
func resume(ctx context.Context, size int64, open func(ctx context.Context, offset int64) (io.ReadCloser, error)) (io.ReadCloser, error) {
	body, err := open(ctx, 0)
	if err != nil {
		return nil, err
	}
	return &resumed{ctx: ctx, open: open, body: body, size: size}, nil
}

// Read implements io.Reader.
func (r *resumed) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.offset += int64(n)
	ended := r.size >= 0 && r.offset >= r.size || r.size < 0 && err == io.EOF
	if err == nil || ended || r.ctx.Err() != nil {
		return n, err
	}
	if r.broken++; r.broken > maxResumes {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, fmt.Errorf("broke off %d times, after %d bytes at last: %w: %w", r.broken, r.offset, err, errdefs.ErrUnavailable)
	}
	body, oerr := r.open(r.ctx, r.offset)
	if oerr != nil {
		return n, oerr
	}
	r.body.Close()
	r.body = body
	return n, nil
}

// Close implements io.Closer.
func (r *resumed) Close() error { return r.body.Close() }
