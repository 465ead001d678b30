package fileop

import (
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// at is the time of something new.
func (m *maker) at(ns int64) time.Time {
	if t := timestamp(ns); t != nil {
		return *t
	}
	return m.opt.Now
}

func (m *maker) mkdir(p *Plan, a *pb.FileActionMkDir) error {
	dir, err := layer.Resolve(p, a.Path, true)
	if err != nil {
		return fmt.Errorf("making directory %q: %w", a.Path, err)
	}
	own, err := findOwner(a.Owner, false, m.tree)
	if err != nil {
		return err
	}
	mode := uint32(a.Mode) & 0o777
	if a.MakeParents {
		return p.mkdirs(dir, mode, own, m.at(a.Timestamp))
	}
	if _, err := p.Lstat(dir); err == nil {
		return nil // whatever it is
	} else if !missing(err) {
		return err
	}
	if err := p.parentOf(dir); err != nil {
		return fmt.Errorf("making directory %q: %w", a.Path, err)
	}
	return p.create(dir, layer.Entry{Mode: unix.S_IFDIR | mode, ModTime: m.at(a.Timestamp)}, own)
}

// parentOf checks that the parent of a path is a directory.
func (p *Plan) parentOf(name string) error {
	dir, _ := splitPath(name)
	e, err := p.Lstat(dir)
	if missing(err) {
		return &NotFoundError{Path: abs(dir)}
	}
	if err == nil && !e.IsDir() {
		err = &fs.PathError{Op: "open", Path: abs(dir), Err: unix.ENOTDIR}
	}
	return err
}

// mkfile writes to an existing file as open(2) with O_TRUNC does: its mode and, unless told
// otherwise, its owner stay.
func (m *maker) mkfile(p *Plan, a *pb.FileActionMkFile) error {
	name, err := layer.Resolve(p, path.Join("/", a.Path), true)
	if err != nil {
		return fmt.Errorf("making file %q: %w", a.Path, err)
	}
	own, err := findOwner(a.Owner, false, m.tree)
	if err != nil {
		return err
	}
	e := layer.Entry{Mode: unix.S_IFREG | uint32(a.Mode)&0o777, ModTime: m.at(a.Timestamp)}
	old, err := p.Lstat(name)
	switch {
	case err == nil && !old.IsRegular():
		reason := error(unix.EISDIR)
		if !old.IsDir() {
			reason = fmt.Errorf("exists and is no regular file")
		}
		return &fs.PathError{Op: "open", Path: abs(name), Err: reason}
	case err == nil:
		e.Mode, e.Xattrs = old.Mode, old.Xattrs
		if own == nil {
			own = &owner{UID: old.UID, GID: old.GID}
		}
	case !missing(err):
		return err
	}
	if err := p.parentOf(name); err != nil {
		return fmt.Errorf("making file %q: %w", a.Path, err)
	}
	if len(a.Data) > 0 {
		e.Size, e.Content = int64(len(a.Data)), layer.Bytes(a.Data)
	}
	return p.create(name, e, own)
}

func (m *maker) symlink(p *Plan, a *pb.FileActionSymlink) error {
	name, err := layer.Resolve(p, path.Join("/", a.Newpath), true)
	if err != nil {
		return fmt.Errorf("making symbolic link %q: %w", a.Newpath, err)
	}
	own, err := findOwner(a.Owner, false, m.tree)
	if err != nil {
		return err
	}
	if _, err := p.Lstat(name); err == nil {
		return fmt.Errorf("making symbolic link %q: %w", a.Newpath, fs.ErrExist)
	} else if !missing(err) {
		return err
	}
	if err := p.parentOf(name); err != nil {
		return fmt.Errorf("making symbolic link %q: %w", a.Newpath, err)
	}
	return p.create(name, layer.Entry{Mode: unix.S_IFLNK | 0o777, Link: a.Oldpath, ModTime: m.at(a.Timestamp)}, own)
}

func (m *maker) rm(p *Plan, a *pb.FileActionRm) error {
	names := []string{path.Join("/", a.Path)}
	if a.AllowWildcard {
		var err error
		names, err = wildcard(p, cleanPath(a.Path), false)
		if err != nil {
			if missing(err) && a.AllowNotFound {
				return nil
			}
			return err
		}
	}
	for _, name := range names {
		if err := m.rmPath(p, path.Clean(name), a.AllowNotFound); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) rmPath(p *Plan, name string, allowNotFound bool) error {
	if name == "/" {
		return fmt.Errorf("removing %q: the root cannot be removed", name)
	}
	target, err := layer.Resolve(p, name, false)
	if err != nil {
		return fmt.Errorf("removing %q: %w", name, err)
	}
	if _, err := p.Lstat(target); missing(err) {
		if allowNotFound {
			return nil
		}
		return &NotFoundError{Path: name}
	} else if err != nil {
		return fmt.Errorf("removing %q: %w", name, err)
	}
	return p.remove(target)
}
