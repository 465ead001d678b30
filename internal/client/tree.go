package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
)

// tree is a part of a client's directory, as it was when the client listed it.
type tree struct {
	transfer *transfer
	contents *contents
	release  func() error
	index    layer.Tree
	metadata *fixed     // the content of metadataFile; nil where it is a file like others
	shown    layer.Tree // without what nobody asked for
}

// file is the content of a file of the client's.
type file struct {
	tree   *tree
	id     uint32
	path   string
	stamp  layer.Stamp
	digest digest.Digest // that its entry has; "": not known then
}

// Lstat implements [layer.Tree].
func (t *tree) Lstat(path string) (*layer.Entry, error) {
	e, err := t.index.Lstat(path)
	if err == nil {
		t.dress(e, new(file))
	}
	return e, err
}

// ReadDir implements [layer.Tree].
func (t *tree) ReadDir(path string) ([]*layer.Entry, error) {
	list, err := t.index.ReadDir(path)
	files := make([]file, len(list))
	for i, e := range list {
		t.dress(e, &files[i])
	}
	return list, err
}

// dress gives an entry its content, f, and the digest of that if it is known.
func (t *tree) dress(e *layer.Entry, f *file) {
	c, ok := e.Content.(layer.Indexed)
	if !ok {
		return
	}
	of := c.Indexed()
	if of.Offset == metadataNumber {
		e.Content, e.Digest = t.metadata, t.metadata.sum
		return
	}
	*f = file{tree: t, id: uint32(of.Offset), path: of.Path, stamp: stampOf(&of.Entry)}
	f.digest, _, _ = t.contents.find(f.stamp)
	e.Content, e.Digest = f, f.digest
}

// Open implements [layer.Content].
func (f *file) Open() (io.ReadCloser, error) {
	sum, at, err := f.tree.bring(f.tree.transfer.client.ctx, f)
	if err != nil {
		return nil, err
	}
	r, err := f.tree.contents.reader(at, f.stamp.Size, sum)
	if err == errDamaged {
		if sum, at, err = f.tree.fetch(f.tree.transfer.client.ctx, f); err == nil {
			r, err = f.tree.contents.reader(at, f.stamp.Size, sum)
		}
	}
	if err == nil && f.digest != "" && sum != f.digest {
		err = fmt.Errorf("reading %q of the client: %w", f.path, layer.ErrChanged)
	}
	return r, err
}

// Checked implements [layer.Checked].
func (f *file) Checked() {}

// Expect implements [layer.Coming].
func (f *file) Expect() {
	if _, _, ok := f.tree.contents.find(f.stamp); !ok {
		f.tree.transfer.expect(f)
	}
}

// bring has a file's content here, and tells what it is and where.
func (t *tree) bring(ctx context.Context, f *file) (digest.Digest, int64, error) {
	if sum, at, ok := t.contents.find(f.stamp); ok {
		return sum, at, nil
	}
	return t.fetch(ctx, f)
}

// fetch has the client send a file, unless it did.
func (t *tree) fetch(ctx context.Context, f *file) (digest.Digest, int64, error) {
	in, err := t.transfer.ask(f)
	if err == errCame {
		if sum, at, ok := t.contents.find(f.stamp); ok {
			return sum, at, nil
		}
		err = fmt.Errorf("reading %q of the client: %w", f.path, layer.ErrChanged) // another transfer has seen another version
	}
	if err != nil {
		return "", 0, err
	}
	select {
	case <-in.done:
		return in.sum, in.at, in.err
	case <-ctx.Done():
		return "", 0, context.Cause(ctx)
	}
}

// end ends the transfer.
func (t *tree) end(ctx context.Context) { t.transfer.end(ctx) }

// close gives up the contents, once nobody writes to them.
func (t *tree) close() error {
	<-t.transfer.over
	return t.release()
}

// fixed is a content that was made here.
type fixed struct {
	contents *contents
	at, size int64
	sum      digest.Digest
}

// copy puts what a file has into the contents, for nobody but the caller.
func (c *contents) copy(from io.ReaderAt, size int64) (*fixed, error) {
	at, err := c.place(size)
	if err != nil {
		return nil, err
	}
	h := newHash()
	n, err := io.Copy(io.MultiWriter(h, io.NewOffsetWriter(c.file, at)), io.NewSectionReader(from, 0, size))
	if err == nil && n != size {
		err = errors.New("a temporary file is shorter than it was")
	}
	return &fixed{c, at, size, digest.NewDigest(digest.SHA256, h)}, err
}

// Open implements [layer.Content].
func (f *fixed) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(f.contents.file, f.at, f.size)), nil
}

// Checked implements [layer.Checked].
func (f *fixed) Checked() {}
