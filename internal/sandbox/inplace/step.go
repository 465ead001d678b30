package inplace

import (
	"errors"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// stepIn moves what is in a directory of the tree into the root directory's.
func (v *View) stepIn(from, to int, at string) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		switch {
		case v.m.stays[path]:
			v.hide(from, name, path)
		case v.m.through[path]:
			if err := v.stepInto(from, to, name, path); err != nil {
				return moving(path, err)
			}
		default:
			if err := rename(from, name, to, name); err != nil {
				return moving(path, err)
			}
			v.moved = append(v.moved, path)
		}
	}
	return nil
}

// hide notes that something of the tree cannot be seen, unless it is an empty directory.
func (v *View) hide(from int, name, path string) {
	fd, err := openDir(from, name)
	if err == nil {
		names, err := readNames(fd)
		unix.Close(fd)
		if err == nil && len(names) == 0 {
			return
		}
	}
	if path != "dev" && path != "proc" && path != "sys" { // which are hidden in any container
		v.Hidden = append(v.Hidden, "/"+path)
	}
}

// stepInto shows a directory of the tree in one of the root directory that stays.
func (v *View) stepInto(from, to int, name, path string) error {
	src, err := openDir(from, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errors.New("the image has no directory there, and something of slipway's or of the container's is below it: put that elsewhere")
	}
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := v.stepIn(src, dst, path); err != nil {
		return err
	}
	v.moved = append(v.moved, path)
	if err := v.note(dst, l); err != nil {
		return err
	}
	return l.apply(dst)
}

// note notes what a directory of somebody else's stands for, which cannot look like it.
func (v *View) note(dst int, l look) error {
	var st unix.Stat_t
	if err := unix.Fstat(dst, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if !(look{UID: st.Uid}).isForeign() {
		return nil
	}
	r, _ := layer.ParseRecord(l.Xattrs[layer.OwnerRecord])
	if r.Mode == 0 {
		r.Mode = l.Mode
	}
	if v.StandsFor == nil {
		v.StandsFor = map[Inode]layer.Record{}
	}
	v.StandsFor[Inode{st.Dev, st.Ino}] = r
	return nil
}

// stepOut moves what is in the root directory or one below it, but what stays, to a directory, and notes what it was before.
func (m *Machine) stepOut(from, to int, at string, before stamps) error {
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := join(at, name)
		if m.stays[path] {
			continue
		}
		if before != nil {
			st, err := stampAt(from, name)
			if err != nil {
				return moving(path, err)
			}
			before[path] = st
		}
		if m.through[path] {
			if err := m.stepOutThrough(from, to, name, path, before); err != nil {
				return moving(path, err)
			}
			continue
		}
		err := rename(from, name, to, name)
		if errors.Is(err, unix.EBUSY) {
			m.stays[path] = true
			continue
		}
		if err != nil {
			return moving(path, err)
		}
	}
	return nil
}

// stepOutThrough moves what is in a directory that stays. The tree has such a directory only if it had one, or if there is
// something in it.
func (m *Machine) stepOutThrough(from, to int, name, path string, before stamps) error {
	src, err := openDir(from, name)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	names, err := readNames(src)
	if err != nil {
		return err
	}
	movable := false
	for _, n := range names {
		movable = movable || !m.stays[join(path, n)]
	}
	dst, err := openDir(to, name)
	switch {
	case errors.Is(err, unix.ENOENT) && !movable:
		return nil
	case errors.Is(err, unix.ENOENT):
		made, merr := m.makeDir(to, name)
		dst, err = made.fd, merr
	}
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	l, err := lookOf(src)
	if err != nil {
		return err
	}
	if err := m.stepOut(src, dst, path, before); err != nil {
		return err
	}
	if l.isForeign() { // and could not look like the tree's
		own, err := lookOf(dst)
		if err != nil {
			return err
		}
		if said, ok := l.Xattrs[layer.OwnerRecord]; ok {
			own.Xattrs = maps.Clone(own.Xattrs)
			if own.Xattrs == nil {
				own.Xattrs = map[string]string{}
			}
			own.Xattrs[layer.OwnerRecord] = said
			_ = unix.Fremovexattr(src, layer.OwnerRecord)
		}
		l.Mode, l.Xattrs = own.Mode, own.Xattrs
	}
	return l.apply(dst)
}
