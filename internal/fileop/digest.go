package fileop

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sync/errgroup"
)

// Hasher gives the digest of a regular file's content.
type Hasher func(*layer.Entry) (digest.Digest, error)

// sourceVersion names the format of the lines that SourceDigest hashes. Any change of what is in
// them, or of what a copy selects, must change it.
const sourceVersion = "slipway copy source v1"

// SourceDigest is the digest of everything that copies from one tree read: names, types, modes,
// owners, extended attributes, link targets and bytes, but no times. What an action overrides
// itself (owner, octal mode) does not count. It fails as the copy would when a source is missing.
//
// Content is digested in parallel, by hashed or, when that is nil, by [layer.HashContent]; entries that
// know their digest are not read.
func SourceDigest(ctx context.Context, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher) (digest.Digest, error) {
	h := sha256.New()
	fmt.Fprintln(h, sourceVersion)
	if err := describeSources(ctx, h, t, copies, hashed); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// description is the lines of copies' sources. Those that stand after a file whose content is not
// known yet are kept back until it is; the others go on to the writer.
type description struct {
	w       io.Writer
	text    []byte
	pending []content // in the order of the text
}

// content is that of a file whose digest is to be put into the text.
type content struct {
	entry *layer.Entry
	at    int // where in the text, before the line's end
	sum   digest.Digest
}

// flushAt is how many bytes of text are collected before they are written.
const flushAt = 64 << 10

var emptyContent = digest.FromBytes(nil)

func describeSources(ctx context.Context, w io.Writer, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher) error {
	if hashed == nil {
		hashed = layer.HashContent
	}
	d := &description{w: w}
	for i, c := range copies {
		d.text = fmt.Appendf(d.text, "copy %d\n", i)
		if err := d.copy(ctx, t, c); err != nil {
			return err
		}
	}
	if err := d.digest(ctx, hashed); err != nil {
		return err
	}
	return d.write()
}

// digest digests the contents that are missing.
func (d *description) digest(ctx context.Context, hashed Hasher) error {
	eg, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), len(d.pending)) {
		eg.Go(func() error {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(d.pending) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				c := &d.pending[i]
				var err error
				if c.sum, err = hashed(c.entry); err != nil {
					return fmt.Errorf("digesting %q: %w", abs(c.entry.Path), err)
				}
			}
		})
	}
	return eg.Wait()
}

// write writes all text, with the digests that were missing.
func (d *description) write() error {
	from := 0
	var b []byte
	for _, c := range d.pending {
		b = appendContent(append(b, d.text[from:c.at]...), c.sum)
		from = c.at
		if len(b) >= flushAt {
			if _, err := d.w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err := d.w.Write(append(b, d.text[from:]...))
	d.text, d.pending = d.text[:0], d.pending[:0]
	return err
}

func appendContent(b []byte, sum digest.Digest) []byte {
	return append(append(b, " content "...), sum...)
}

// copy describes what one copy reads.
func (d *description) copy(ctx context.Context, t layer.Tree, c *pb.FileActionCopy) error {
	found, err := matches(t, c)
	if err != nil {
		return err
	}
	links := map[[2]uint64]string{}
	s, err := newSelector(t, c, func(it item) error {
		d.item(c, it, links)
		if len(d.text) >= flushAt && len(d.pending) == 0 {
			return d.write()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, src := range found {
		// The name says where the copy goes, unless only what is inside of a directory is copied.
		name := path.Base(src.name)
		if src.entry.IsDir() && c.DirCopyContents {
			name = ""
		}
		d.text = fmt.Appendf(d.text, "match %q\n", name)
		clear(links)
		if err := s.run(ctx, src); err != nil {
			return err
		}
	}
	return s.finish()
}

// item adds the line of one object of a copy's source.
func (d *description) item(c *pb.FileActionCopy, it item, links map[[2]uint64]string) {
	d.text = append(d.text, typeName(it.entry)...)
	d.text = strconv.AppendQuote(append(d.text, ' '), it.rel)
	// The destination of contents exists by then and keeps its own attributes.
	if it.rel != "" || !it.entry.IsDir() || !c.DirCopyContents {
		d.attributes(c, it, links)
	}
	d.text = append(d.text, '\n')
}

func (d *description) attributes(c *pb.FileActionCopy, it item, links map[[2]uint64]string) {
	e, b := it.entry, d.text
	defer func() { d.text = b }()
	if e.IsRegular() && e.Nlink > 1 {
		id := [2]uint64{e.Dev, e.Inode}
		if first, ok := links[id]; ok {
			b = strconv.AppendQuote(append(b, " same file as "...), first)
			return
		}
		links[id] = it.rel
	}
	if (it.passing || c.ModeStr != "" || c.Mode == -1) && !e.IsSymlink() {
		b = append(b, " mode "...)
		perm := e.Perm()
		for shift := 9; shift >= 0; shift -= 3 {
			b = append(b, '0'+byte(perm>>shift&7))
		}
	}
	if c.Owner == nil {
		b = appendPair(append(b, " owner "...), e.UID, e.GID)
	}
	if len(e.Xattrs) > 0 {
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			b = strconv.AppendQuote(append(b, " xattr "...), k)
			b = strconv.AppendQuote(append(b, '='), e.Xattrs[k])
		}
	}
	switch {
	case e.IsSymlink():
		b = strconv.AppendQuote(append(b, " target "...), e.Link)
	case e.IsRegular() && e.Digest != "":
		b = appendContent(b, e.Digest)
	case e.IsRegular() && e.Size == 0:
		b = appendContent(b, emptyContent)
	case e.IsRegular():
		d.pending = append(d.pending, content{entry: e, at: len(b)})
	case !e.IsDir():
		b = appendPair(append(b, " device "...), e.Major, e.Minor)
	}
}

// appendPair writes two numbers with a colon between them.
func appendPair(b []byte, x, y uint32) []byte {
	b = strconv.AppendUint(b, uint64(x), 10)
	return strconv.AppendUint(append(b, ':'), uint64(y), 10)
}

func typeName(e *layer.Entry) string {
	switch {
	case e.IsDir():
		return "directory"
	case e.IsRegular():
		return "file"
	case e.IsSymlink():
		return "symlink"
	}
	return fmt.Sprintf("special %o", e.Type())
}
