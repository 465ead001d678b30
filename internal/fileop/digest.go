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
	if err := describeSources(ctx, h, t, copies, hashed, nil); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// description writes the lines of copies' sources. Contents whose digest is not known are digested on all cores
// while the walk goes on; the text that stands after them waits, up to maxPending of them.
type description struct {
	w       io.Writer
	text    []byte     // not written yet
	out     []byte     // is written
	pending []*content // in the order of the text
	hashed  Hasher
	list    *lister // that the text is written to, too; nil

	todo chan *content // nil: nothing had to be digested so far
	eg   *errgroup.Group
	ctx  context.Context
}

// content is that of a file whose digest is to be put into the text.
type content struct {
	entry *layer.Entry
	at    int // where in the text, before the line's end
	sum   digest.Digest
	done  chan struct{} // closed when sum is there; not after an error
}

const (
	flushAt    = 64 << 10 // bytes of text that are collected before they are written
	maxPending = 2048
)

var emptyContent = digest.FromBytes(nil)

func describeSources(ctx context.Context, w io.Writer, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher, list *lister) error {
	if hashed == nil {
		hashed = layer.HashContent
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &description{w: w, hashed: hashed, list: list}
	d.eg, d.ctx = errgroup.WithContext(ctx)
	err := d.copies(t, copies)
	walked := d.ctx.Err() == nil // otherwise what ended the walk is somebody else's error
	if err != nil {
		cancel()
	}
	if d.todo != nil {
		close(d.todo)
	}
	if herr := d.eg.Wait(); herr != nil && !walked {
		return herr
	}
	return err
}

func (d *description) copies(t layer.Tree, copies []*pb.FileActionCopy) error {
	for i, c := range copies {
		d.list.expect(about{})
		d.text = fmt.Appendf(d.text, "copy %d\n", i)
		if err := d.copy(d.ctx, t, c); err != nil {
			return err
		}
	}
	return d.write(0)
}

// wait adds a content that is to be digested before the text is written.
func (d *description) wait(e *layer.Entry, at int) {
	if d.todo == nil {
		d.todo = make(chan *content, maxPending)
		for range runtime.GOMAXPROCS(0) {
			d.eg.Go(d.digest)
		}
	}
	if coming, ok := e.Content.(layer.Coming); ok {
		coming.Expect() // many of them before the first is waited for
	}
	c := &content{entry: e, at: at, done: make(chan struct{})}
	d.pending = append(d.pending, c)
	d.todo <- c // there is room for all that are pending
}

// digest digests contents as long as there are some.
func (d *description) digest() error {
	for c := range d.todo {
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		var err error
		if c.sum, err = d.hashed(c.entry); err != nil {
			return fmt.Errorf("digesting %q: %w", abs(c.entry.Path), err)
		}
		close(c.done)
	}
	return nil
}

// write writes the text up to the content that is the first of the last keep ones.
func (d *description) write(keep int) error {
	from := 0
	b := d.out[:0]
	done := d.pending[:max(0, len(d.pending)-keep)]
	for _, c := range done {
		select {
		case <-c.done:
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		}
		b = appendContent(append(b, d.text[from:c.at]...), c.sum)
		from = c.at
	}
	d.pending = d.pending[:copy(d.pending, d.pending[len(done):])]
	end := len(d.text)
	if len(d.pending) > 0 {
		end = d.pending[0].at
	}
	d.out = append(b, d.text[from:end]...)
	_, err := d.w.Write(d.out)
	d.text = d.text[:copy(d.text, d.text[end:])]
	for _, c := range d.pending {
		c.at -= end
	}
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
		switch {
		case len(d.pending) >= maxPending:
			return d.write(maxPending / 2)
		case len(d.text) >= flushAt && len(d.pending) == 0:
			return d.write(0)
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
		d.list.expect(about{})
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
	begin := len(d.text)
	d.text = append(d.text, typeName(it.entry)...)
	d.text = appendQuote(append(d.text, ' '), it.rel)
	d.list.expect(about{it.entry.Path, len(d.text) - begin, it.entry.IsDir()})
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
			b = appendQuote(append(b, " same file as "...), first)
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
			b = appendQuote(append(b, " xattr "...), k)
			b = appendQuote(append(b, '='), e.Xattrs[k])
		}
	}
	switch {
	case e.IsSymlink():
		b = appendQuote(append(b, " target "...), e.Link)
	case e.IsRegular() && e.Digest != "":
		b = appendContent(b, e.Digest)
	case e.IsRegular() && e.Size == 0:
		b = appendContent(b, emptyContent)
	case e.IsRegular():
		d.wait(e, len(b))
	case !e.IsDir():
		b = appendPair(append(b, " device "...), e.Major, e.Minor)
	}
}

// appendQuote is [strconv.AppendQuote], without a look at each letter where they are those of most names.
func appendQuote(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return strconv.AppendQuote(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
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
