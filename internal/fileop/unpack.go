package fileop

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// unpack puts the content of a tar archive to the destination, as ADD does. done: the match was
// one; a file that cannot be read as an archive is copied like any other.
func (c *copier) unpack(src match) (done bool, err error) {
	if !src.entry.IsRegular() || src.entry.Size == 0 {
		return false, nil
	}
	if ok, err := isArchive(src.entry); err != nil || !ok {
		return false, err
	}
	dest, err := layer.Resolve(c.plan, c.action.Dest, true)
	if err != nil {
		return false, err
	}
	at := c.m.opt.Now
	if c.utime != nil {
		at = *c.utime
	}
	if err := c.plan.mkdirs(dest, 0o755, c.owner, at); err != nil {
		return false, err
	}
	f, err := layer.OpenContent(src.entry)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := layer.Decompress(f)
	if err != nil {
		return false, err
	}
	defer r.Close()
	sink := &unpacker{c: c, dest: dest, now: at}
	defer func() { err = errors.Join(err, sink.Close()) }()
	return true, layer.ReadTar(r, layer.TarOptions{NoWhiteouts: true, SkipImplied: true}, sink)
}

// isArchive reports whether a file begins as a tar archive does, compressed or not.
func isArchive(e *layer.Entry) (bool, error) {
	f, err := layer.OpenContent(e)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := layer.Decompress(f)
	if errors.Is(err, layer.ErrCompression) {
		return false, err
	}
	if err != nil {
		return false, nil
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil, nil
}

// unpacker is the sink of an archive's entries. Their content is kept in one temporary file, which
// the plan closes; it has no name any more.
type unpacker struct {
	c     *copier
	dest  string
	now   time.Time // of parents that the archive does not mention
	spool *os.File
	size  int64
}

func (u *unpacker) Close() error { return nil }

func (u *unpacker) Add(src *layer.Entry) error {
	if src.Path == "." {
		return nil // the destination is there
	}
	// Symbolic links that the image has on the way are followed, as in a chroot.
	dir, base := splitPath(joinPath(u.dest, src.Path))
	dir, err := layer.Resolve(u.c.plan, dir, true)
	if err != nil {
		return err
	}
	if err := u.c.plan.mkdirs(dir, 0o755, nil, u.now); err != nil {
		return err
	}
	to := joinPath(dir, base)
	e := *src
	e.Opaque = false
	if u.c.owner != nil {
		e.UID, e.GID = u.c.owner.UID, u.c.owner.GID
	}
	old, err := u.c.plan.Lstat(to)
	if err != nil && !missing(err) {
		return err
	}
	if old != nil && old.IsDir() && e.IsDir() {
		return u.c.plan.update(to, func(x *layer.Entry) {
			opaque := x.Opaque
			e.Xattrs = mergeXattrs(x.Xattrs, e.Xattrs)
			*x = e
			x.Opaque = opaque
		})
	}
	if e.Hardlink {
		return u.link(&e, to)
	}
	if e.Size > 0 {
		if e.Content, err = u.keep(src); err != nil {
			return err
		}
	}
	if old != nil {
		if err := u.c.plan.remove(to); err != nil {
			return err
		}
	}
	return u.c.plan.put(to, e, nil)
}

// link gives a file that was unpacked before another name.
func (u *unpacker) link(e *layer.Entry, to string) error {
	dir, base := splitPath(joinPath(u.dest, e.Link))
	dir, err := layer.Resolve(u.c.plan, dir, true)
	if err != nil {
		return err
	}
	target := joinPath(dir, base)
	if target == to {
		return nil
	}
	n, _ := u.c.plan.find(target)
	if n == nil || n.entry == nil || n.entry.IsDir() {
		return fmt.Errorf("linking %q: %w", abs(to), &NotFoundError{Path: abs(target)})
	}
	if n.links == nil {
		n.links = &linkSet{id: lastLinkSet.Add(1), names: 1}
	}
	copied := *n.entry
	if err := u.c.plan.remove(to); err != nil {
		return err
	}
	return u.c.plan.put(to, copied, n.links)
}

// keep spools an entry's content.
func (u *unpacker) keep(e *layer.Entry) (layer.Content, error) {
	if u.spool == nil {
		f, err := os.CreateTemp(u.c.m.opt.TempDir, "slipway-unpack-")
		if err != nil {
			return nil, fmt.Errorf("making room for the archive's content: %w", err)
		}
		u.spool = f
		u.c.plan.close = append(u.c.plan.close, f)
		if err := os.Remove(f.Name()); err != nil {
			return nil, err
		}
	}
	r, err := e.Content.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := io.Copy(u.spool, r)
	if err != nil {
		return nil, fmt.Errorf("keeping the archive's content: %w", err)
	}
	if n != e.Size {
		return nil, fmt.Errorf("reading archive: got %d bytes of %d: %w", n, e.Size, io.ErrUnexpectedEOF)
	}
	s := section{f: u.spool, off: u.size, size: n}
	u.size += n
	return s, nil
}

// section is a part of a file that is open as long as the plan.
type section struct {
	f         *os.File
	off, size int64
}

func (s section) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.f, s.off, s.size)), nil
}
