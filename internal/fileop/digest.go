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

// ExplainSource writes the lines that SourceDigest hashes, to tell why two digests differ.
func ExplainSource(ctx context.Context, w io.Writer, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher) error {
	return describeSources(ctx, w, t, copies, hashed)
}

// line is one object of a copy's source.
type line struct {
	text  string
	entry *layer.Entry // regular files: whose content belongs to the line
	sum   digest.Digest
}

func describeSources(ctx context.Context, w io.Writer, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher) error {
	if hashed == nil {
		hashed = layer.HashContent
	}
	var lines []line
	for i, c := range copies {
		lines = append(lines, line{text: fmt.Sprintf("copy %d", i)})
		some, err := describeCopy(ctx, t, c)
		if err != nil {
			return err
		}
		lines = append(lines, some...)
	}
	if err := digestLines(ctx, lines, hashed); err != nil {
		return err
	}
	for _, l := range lines {
		if l.sum != "" {
			l.text += " content " + l.sum.String()
		}
		if _, err := fmt.Fprintln(w, l.text); err != nil {
			return err
		}
	}
	return nil
}

func digestLines(ctx context.Context, lines []line, hashed Hasher) error {
	eg, egctx := errgroup.WithContext(ctx)
	eg.SetLimit(runtime.GOMAXPROCS(0))
	for i := range lines {
		l := &lines[i]
		if l.entry == nil {
			continue
		}
		if l.sum = l.entry.Digest; l.sum != "" {
			continue
		}
		if l.entry.Size == 0 {
			l.sum = digest.FromBytes(nil)
			continue
		}
		if egctx.Err() != nil {
			break
		}
		eg.Go(func() (err error) {
			if l.sum, err = hashed(l.entry); err != nil {
				return fmt.Errorf("digesting %q: %w", abs(l.entry.Path), err)
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// describeCopy lists what one copy reads.
func describeCopy(ctx context.Context, t layer.Tree, c *pb.FileActionCopy) ([]line, error) {
	found, err := matches(t, c)
	if err != nil {
		return nil, err
	}
	var lines []line
	links := map[[2]uint64]string{}
	s, err := newSelector(t, c, func(it item) error {
		lines = append(lines, describeItem(c, it, links))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, src := range found {
		// The name says where the copy goes, unless only what is inside of a directory is copied.
		name := path.Base(src.name)
		if src.entry.IsDir() && c.DirCopyContents {
			name = ""
		}
		lines = append(lines, line{text: fmt.Sprintf("match %q", name)})
		clear(links)
		if err := s.run(ctx, src); err != nil {
			return nil, err
		}
	}
	return lines, s.finish()
}

func describeItem(c *pb.FileActionCopy, it item, links map[[2]uint64]string) line {
	e := it.entry
	l := line{text: fmt.Sprintf("%s %q", typeName(e), it.rel)}
	if it.rel == "" && e.IsDir() && c.DirCopyContents {
		return l // the destination exists by then and keeps its own attributes
	}
	if e.IsRegular() && e.Nlink > 1 {
		id := [2]uint64{e.Dev, e.Inode}
		if first, ok := links[id]; ok {
			l.text += fmt.Sprintf(" same file as %q", first)
			return l
		}
		links[id] = it.rel
	}
	if it.passing || c.ModeStr != "" || c.Mode == -1 {
		if !e.IsSymlink() {
			l.text += fmt.Sprintf(" mode %04o", e.Perm())
		}
	}
	if c.Owner == nil {
		l.text += fmt.Sprintf(" owner %d:%d", e.UID, e.GID)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		l.text += fmt.Sprintf(" xattr %q=%q", k, e.Xattrs[k])
	}
	switch {
	case e.IsSymlink():
		l.text += fmt.Sprintf(" target %q", e.Link)
	case e.IsRegular():
		l.entry = e
	case !e.IsDir():
		l.text += fmt.Sprintf(" device %d:%d", e.Major, e.Minor)
	}
	return l
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
