package fileop

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"
)

// copier carries out one copy action.
type copier struct {
	m      *maker
	plan   *Plan
	source layer.Tree
	action *pb.FileActionCopy
	owner  *owner     // replaces that of the source
	utime  *time.Time // replaces that of the source
	perm   *uint32    // replaces permission bits
	modes  *mode.Set  // changes permission bits
}

func (m *maker) copy(p *Plan, source layer.Tree, a *pb.FileActionCopy) error {
	c := &copier{m: m, plan: p, source: source, action: a, utime: timestamp(a.Timestamp)}
	var err error
	if c.owner, err = findOwner(a.Owner, true, m.tree); err != nil {
		return err
	}
	if a.ModeStr != "" {
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return fmt.Errorf("reading mode %q: %w", a.ModeStr, err)
		}
		c.modes = &set
	} else if a.Mode != -1 {
		perm := uint32(a.Mode) & 0o7777
		c.perm = &perm
	}
	if !a.CreateDestPath {
		to, err := layer.Resolve(p, a.Dest, true)
		if err == nil && to != "." {
			err = p.parentOf(to)
		}
		if err != nil {
			return fmt.Errorf("checking destination %q: %w", a.Dest, err)
		}
	}
	found, err := matches(source, a)
	if err != nil {
		return err
	}
	s, err := newSelector(source, a, nil)
	if err != nil {
		return err
	}
	for _, src := range found {
		if a.AttemptUnpackDockerCompatibility {
			if done, err := c.unpack(src); err != nil {
				return fmt.Errorf("unpacking %q: %w", path.Clean(src.name), err)
			} else if done {
				continue
			}
		}
		if err := c.one(s, src); err != nil {
			return err
		}
	}
	return s.finish()
}

// one copies one match.
func (c *copier) one(s *selector, src match) error {
	target, err := c.target(src)
	if err != nil {
		return fmt.Errorf("preparing destination %q: %w", c.action.Dest, err)
	}
	match := &copying{copier: c, links: map[[2]uint64]*linkSet{}}
	s.visit = func(it item) error {
		to := target
		if it.rel != "" {
			to = joinPath(target, it.rel)
		}
		if err := match.item(it, to); err != nil {
			return fmt.Errorf("copying %q to %q: %w", abs(it.entry.Path), abs(to), err)
		}
		if s.include == nil && s.exclude == nil && it.entry.IsDir() && match.plant(it.entry, to) {
			return errWhole
		}
		return nil
	}
	return s.run(c.m.ctx, src)
}

// target decides where a match goes and makes the directories on the way.
func (c *copier) target(src match) (string, error) {
	dest := cleanPath(c.action.Dest)
	ensure := dest
	if dir, base := path.Split(dest); base != "" && base != "." {
		ensure = dir
	}
	to, err := layer.Resolve(c.plan, ensure, true)
	if err != nil {
		return "", err
	}
	if err := c.mkdirs(to); err != nil {
		return "", err
	}
	if to, err = layer.Resolve(c.plan, path.Clean(dest), true); err != nil {
		return "", err
	}
	old, err := c.plan.Lstat(to)
	if err != nil && !missing(err) {
		return "", err
	}
	isDir := src.entry.IsDir()
	if old != nil && ((isDir && !c.action.DirCopyContents) || (!isDir && old.IsDir())) {
		to = joinPath(to, path.Base(src.name))
	}
	if isDir && c.action.DirCopyContents && old == nil {
		return to, c.mkdirs(to)
	}
	parent, _ := splitPath(to)
	return to, c.mkdirs(parent)
}

func (c *copier) mkdirs(dir string) error {
	perm := uint32(0o755)
	if c.perm != nil {
		perm = *c.perm
	}
	at := c.m.opt.Now
	if c.utime != nil {
		at = *c.utime
	}
	return c.plan.mkdirs(dir, perm, c.owner, at)
}

// item copies one object to a path whose parent is there.
func (c *copying) item(it item, to string) error {
	old, err := c.plan.Lstat(to)
	if err != nil && !missing(err) {
		return err
	}
	isDir := it.entry.IsDir()
	if to == "." && !isDir {
		return fmt.Errorf("cannot replace the root with a file")
	}
	if old != nil && c.action.AlwaysReplaceExistingDestPaths && !it.passing && !(isDir && old.IsDir()) {
		if err := c.plan.remove(to); err != nil {
			return err
		}
		old = nil
	}
	if isDir {
		return c.directory(it, to, old)
	}
	if old != nil && old.IsDir() {
		return fmt.Errorf("cannot replace to directory %s with file", abs(to))
	}
	return c.file(it.entry, to)
}

// directory merges a directory into what is there. The match itself leaves an existing directory
// as it is but for its time; those below it bring their attributes; those only on the way to
// something selected bring their permission bits.
func (c *copying) directory(it item, to string, old *layer.Entry) error {
	switch {
	case old == nil:
		return c.plan.put(to, c.attributes(it.entry), nil)
	case !old.IsDir():
		return fmt.Errorf("cannot copy to non-directory: %s", abs(to))
	case it.passing:
		return c.plan.update(to, func(e *layer.Entry) { e.Mode = it.entry.Mode })
	case it.rel == "":
		return c.plan.update(to, func(e *layer.Entry) { e.ModTime = c.attributes(it.entry).ModTime })
	}
	return c.plan.update(to, func(e *layer.Entry) {
		xattrs := e.Xattrs
		opaque := e.Opaque
		*e = c.attributes(it.entry)
		e.Opaque = opaque
		e.Xattrs = mergeXattrs(xattrs, e.Xattrs)
	})
}

func mergeXattrs(old, add map[string]string) map[string]string {
	if len(old) == 0 {
		return add
	}
	out := make(map[string]string, len(old)+len(add))
	for k, v := range old {
		out[k] = v
	}
	for k, v := range add {
		out[k] = v
	}
	return out
}

func (c *copying) file(src *layer.Entry, to string) error {
	e, err := c.object(src)
	if err != nil {
		return err
	}
	return c.plan.putNode(to, &node{entry: &e, links: c.link(src), from: c})
}

// object is the entry of the copy of what is no directory.
func (c *copier) object(src *layer.Entry) (layer.Entry, error) {
	e := c.attributes(src)
	switch e.Type() {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
	case unix.S_IFSOCK:
		e.Mode = e.Perm() | unix.S_IFREG // an empty file stands in for it
	default:
		return e, &fs.PathError{Op: "copy", Path: abs(src.Path), Err: unix.ENOTSUP}
	}
	return e, nil
}

// attributes is the entry of a copy.
func (c *copier) attributes(src *layer.Entry) layer.Entry {
	e := *src
	e.Opaque = false
	if c.owner != nil {
		e.UID, e.GID = c.owner.UID, c.owner.GID
	}
	if c.utime != nil {
		e.ModTime = *c.utime
	}
	if !e.IsSymlink() {
		switch {
		case c.modes != nil:
			e.Mode = e.Type() | fromFileMode(c.modes.Apply(toFileMode(e.Mode)))
		case c.perm != nil:
			e.Mode = e.Type() | *c.perm
		}
	}
	return e
}

// toFileMode converts st_mode to what package os has.
func toFileMode(m uint32) os.FileMode {
	f := os.FileMode(m & 0o777)
	if m&unix.S_IFMT == unix.S_IFDIR {
		f |= os.ModeDir
	}
	if m&unix.S_ISUID != 0 {
		f |= os.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		f |= os.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		f |= os.ModeSticky
	}
	return f
}

// fromFileMode gives the permission bits of st_mode.
func fromFileMode(f os.FileMode) uint32 {
	m := uint32(f.Perm())
	if f&os.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if f&os.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if f&os.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}
