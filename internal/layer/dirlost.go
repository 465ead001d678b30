package layer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// lost is what the disk did not take of an entry, which is recorded then.
type lost struct {
	owner, mode, device bool
	marked              bool // the object belongs to recordOwner
}

func (l lost) any() bool { return l.owner || l.mode || l.device }

// chown gives an object, which belongs to own, its owner.
func (w *DirWriter) chown(fd int, e *Entry, own Owner) (l lost, err error) {
	want, held := Owner{e.UID, e.GID}, true
	if w.flavor == User {
		if want, held = self().toDisk(want); w.refused[want] {
			return w.mark(fd, lost{owner: true})
		}
	}
	if own == want {
		return lost{owner: !held}, nil
	}
	err = unix.Fchownat(fd, "", int(want.UID), int(want.GID), unix.AT_EMPTY_PATH)
	if w.flavor == User && (err == unix.EPERM || err == unix.EINVAL) {
		if w.refused == nil {
			w.refused = map[Owner]bool{}
		}
		w.refused[want] = true
		return w.mark(fd, lost{owner: true})
	}
	if err != nil {
		return l, fmt.Errorf("setting owner: %w", err)
	}
	return lost{owner: !held}, nil
}

// mark has an object be one whose record counts.
func (w *DirWriter) mark(fd int, l lost) (lost, error) {
	if !self().many || l.marked {
		return l, nil
	}
	if err := unix.Fchownat(fd, "", recordOwner, recordOwner, unix.AT_EMPTY_PATH); err != nil {
		return l, fmt.Errorf("setting owner: %w", err)
	}
	l.marked = true
	return l, nil
}

// markLate is mark for an object that has its permissions and attributes already, which the kernel may take away then.
func (w *DirWriter) markLate(fd int, e *Entry, l *lost, set func(key string, value []byte) error) (err error) {
	if !self().many || l.marked {
		return nil
	}
	if *l, err = w.mark(fd, *l); err == nil && !e.IsSymlink() {
		err = chmodOf(fd, w.perm(e, l))
	}
	for _, k := range sortedKeys(e.Xattrs) {
		_ = set(k, []byte(e.Xattrs[k])) // what cannot be set is known
	}
	return err
}

// perm are the permissions that an object gets on the disk.
func (w *DirWriter) perm(e *Entry, l *lost) uint32 {
	perm := e.Perm()
	if w.flavor == User {
		perm |= self().locked(e, l.device)
	}
	l.mode = perm != e.Perm()
	return perm
}

// device makes a device, or an empty file that stands for it where nobody may make one.
func (w *DirWriter) device(fd int, base string, e *Entry) error {
	err := unix.Mknodat(fd, base, e.Type()|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	if err != unix.EPERM || w.flavor != User {
		return err
	}
	return unix.Mknodat(fd, base, unix.S_IFREG|0o600, 0)
}

// standsFor reports whether an object is what [DirWriter.device] makes in the place of a device.
func (w *DirWriter) standsFor(st *unix.Stat_t, e *Entry) bool {
	device := e.Type() == unix.S_IFCHR || e.Type() == unix.S_IFBLK
	return w.flavor == User && device && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
}

// setXattrs sets the attributes of an entry, and records what was lost of it.
func (w *DirWriter) setXattrs(fd int, e *Entry, l *lost, set func(key string, value []byte) error) error {
	var held map[string][]byte // that only records can have
	for _, k := range sortedKeys(e.Xattrs) {
		v := []byte(e.Xattrs[k])
		err := set(k, v)
		if err == nil {
			continue
		}
		if w.flavor != User || strings.HasPrefix(k, "user.") && !w.beside(e, l) || err != unix.EPERM && err != unix.EINVAL && err != unix.ENOTSUP {
			return fmt.Errorf("setting extended attribute %q: %w", k, err)
		}
		if held == nil {
			held = map[string][]byte{}
		}
		held[k] = v
	}
	if !l.any() && held == nil {
		return nil
	}
	if err := w.markLate(fd, e, l, set); err != nil {
		return err
	}
	rec := Record{Owner: Owner{e.UID, e.GID}}
	if l.mode || l.device {
		rec.Mode = e.Mode
	}
	if l.device {
		rec.Major, rec.Minor = e.Major, e.Minor
	}
	if w.beside(e, l) {
		w.records.note(e, rec, held)
		return nil
	}
	if err := set(OwnerRecord, []byte(rec.String())); err != nil {
		return fmt.Errorf("recording that it belongs to %s, which the disk cannot hold: %w", rec, err)
	}
	for k, v := range held {
		if err := set(HeldRecord+k, v); err != nil {
			return fmt.Errorf("recording extended attribute %q: %w", k, err)
		}
	}
	return nil
}

// beside reports whether an object's record is not one of its attributes.
func (w *DirWriter) beside(e *Entry, l *lost) bool { return !e.IsDir() && !e.IsRegular() && !l.device }

// recorder keeps the records of what cannot have attributes.
type recorder struct {
	path string
	all  []sideRecord
	at   map[string]int
}

func (r *recorder) note(e *Entry, rec Record, xattrs map[string][]byte) {
	r.add(e.Path, sideRecord{Time: e.ModTime.UnixNano(), Owner: rec.String(), Xattrs: xattrs})
}

func (r *recorder) add(name string, s sideRecord) {
	if r.path == "" {
		return
	}
	if r.at == nil {
		r.at = map[string]int{}
	}
	s.Path, r.at[name] = []byte(name), len(r.all)
	r.all = append(r.all, s)
}

// link notes a hard link, which is what its target is.
func (r *recorder) link(e *Entry) {
	if i, ok := r.at[e.Link]; ok {
		r.add(e.Path, r.all[i])
	}
}

func (r *recorder) close() error {
	if len(r.all) == 0 {
		return nil
	}
	if err := appendRecords(r.path, r.all); err != nil {
		return fmt.Errorf("recording owners: %w", err)
	}
	return nil
}
