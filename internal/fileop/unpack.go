package fileop

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
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
	return true, layer.ReadArchive(r, layer.TarOptions{}, sink)
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
	to, err := u.place(src.Path)
	if err != nil {
		return err
	}
	dir, _ := splitPath(to)
	if err := u.c.plan.mkdirs(dir, 0o755, nil, u.now); err != nil {
		return err
	}
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

// place is the path in the image of a path in the archive. Symbolic links on the way are followed, those of the
// image as those of the archive, as by a process that has the destination as its root: that is how BuildKit
// unpacks.
func (u *unpacker) place(name string) (string, error) {
	dir, base := splitPath(name)
	dir, err := layer.Resolve(below{u.c.plan, u.dest}, dir, true)
	if err != nil {
		return "", err
	}
	return joinPath(joinPath(u.dest, dir), base), nil
}

// below is the tree of a directory of another tree.
type below struct {
	layer.Tree
	dir string
}

func (b below) Lstat(path string) (*layer.Entry, error) { return b.Tree.Lstat(joinPath(b.dir, path)) }

// link gives a file another name. One of the image becomes part of the layer, as it does when a process makes
// the link in an overlay.
func (u *unpacker) link(e *layer.Entry, to string) error {
	target, err := u.place(e.Link)
	if err != nil {
		return err
	}
	if target == to {
		return nil
	}
	from, err := u.c.plan.Lstat(target)
	if err != nil && !missing(err) {
		return err
	}
	if err != nil || from.IsDir() || strings.HasPrefix(target, to+"/") {
		return fmt.Errorf("linking %q: %w", abs(to), &NotFoundError{Path: abs(target)})
	}
	n, err := u.c.plan.held(target)
	if err == nil && n == nil {
		if err = u.c.plan.put(target, *from, nil); err == nil {
			n, err = u.c.plan.held(target)
		}
	}
	if err != nil {
		return err
	}
	if n.links == nil {
		n.links = &linkSet{id: lastLinkSet.Add(1), names: 1}
	}
	if err := u.c.plan.remove(to); err != nil {
		return err
	}
	if err := u.c.plan.put(to, *n.entry, n.links); err != nil {
		return err
	}
	if n.entry.IsSymlink() {
		n.entry.UID, n.entry.GID = e.UID, e.GID
	} else { // the link's header tells of the file as well
		n.entry.UID, n.entry.GID, n.entry.Mode, n.entry.ModTime = e.UID, e.GID, n.entry.Type()|e.Perm(), e.ModTime
		n.entry.Xattrs = mergeXattrs(n.entry.Xattrs, e.Xattrs)
	}
	other, err := u.c.plan.held(to)
	if err == nil {
		other.entry = n.entry
	}
	return err
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
	n, err := layer.CopySparse(u.spool, r)
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
