package layer

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Completion is what is known of files that processes left in a directory whose filesystem cannot hold their owners.
type Completion struct {
	// New is whom those files belong to that the processes made and nobody gave to somebody else.
	New Owner
	// Links are records of what cannot have attributes.
	Links []LinkRecord
}

// LinkRecord is the record of a symbolic link, a pipe or a device. Its object is the one with that inode, or, since overlayfs shows that of
// the layer below of what it has copied, the one at the path, if it is a link to the target or no link. Another one may have the inode, or the path,
// by now: it was made at another time.
type LinkRecord struct {
	Record
	Inode  uint64
	Born   int64  // when it was made, in nanoseconds ([Born]); 0: not known
	Path   string // relative
	Target string
}

// Complete records the owners of files in an overlay-native directory of the flavor [User] that have no record. Files that overlayfs
// has copied from layers below have theirs. As the kernel has it, what is in a directory with the set-group-ID bit belongs to
// the directory's group unless somebody has given it to another one. Nobody else uses the directory.
func Complete(dir string, c Completion) error { return complete(dir, c, false) }

func complete(dir string, c Completion, settle bool) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	path := User.Records(dir)
	known, err := readRecords(path)
	if err != nil {
		return fmt.Errorf("reading recorded owners: %w", err)
	}
	w := &completer{Completion: c, settle: settle, known: known, records: recorder{path: path}, inodes: map[uint64]LinkRecord{}, paths: map[string]LinkRecord{}}
	for _, l := range c.Links {
		w.inodes[l.Inode], w.paths[l.Path] = l, l
	}
	if err := w.dir(fd, ".", nil); err != nil {
		return fmt.Errorf("recording owners: %w", err)
	}
	return w.records.close()
}

// Settle records of what is in a directory without a record whom it belongs to without one: root. For [Complete] it is then not new.
func Settle(dir string) error { return complete(dir, Completion{}, true) }

type completer struct {
	Completion
	settle  bool // what has no record is not new
	known   map[string]sideRecord
	records recorder
	inodes  map[uint64]LinkRecord
	paths   map[string]LinkRecord
	buf     []byte
}

// dir completes what is in an open directory. group is the one that new files get there; nil: that of who makes them.
func (c *completer) dir(fd int, name string, group *uint32) error {
	names, err := readNames(fd)
	if err != nil {
		return pathError("readdir", name, err)
	}
	for _, base := range names {
		if err := c.object(fd, base, join(name, base), group); err != nil {
			return err
		}
	}
	return nil
}

func (c *completer) object(fd int, base, name string, group *uint32) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("lstat", name, err)
	}
	own := c.New
	if group != nil && !c.settle {
		own.GID = *group
	}
	var e Entry
	fromStat(&e, name, &st)
	if isWhiteout(&e) {
		return nil
	}
	if !e.IsDir() && !e.IsRegular() {
		if e.IsSymlink() {
			var err error
			if e.Link, err = readlinkat(fd, base); err != nil {
				return pathError("readlink", name, err)
			}
		}
		c.beside(&e, st.Ino, Born(fd, base), own)
		return nil
	}
	is, found, err := c.read(fd, base)
	if err != nil {
		return pathError("getxattr", name, err)
	}
	if !found && (own != (Owner{}) || c.settle) {
		is.Owner = own
		if err := unix.Lsetxattr(procPath(fd, base), OwnerRecord, []byte(is.String()), 0); err != nil {
			return pathError("setxattr", name, err)
		}
	}
	if !e.IsDir() {
		return nil
	}
	var below *uint32
	if st.Mode&unix.S_ISGID != 0 {
		below = &is.GID
	}
	sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", name, err)
	}
	defer unix.Close(sub)
	return c.dir(sub, name, below)
}

// Born is when an object was made, in nanoseconds; 0 where the filesystem does not tell. An empty name is the open object itself.
func Born(fd int, base string) int64 {
	var x unix.Statx_t
	err := unix.Statx(fd, base, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &x)
	if err != nil || x.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
}

// beside records what cannot have attributes.
func (c *completer) beside(e *Entry, ino uint64, born int64, own Owner) {
	is := func(l LinkRecord) bool { return l.Target == e.Link && (l.Born == 0 || born == 0 || l.Born == born) }
	l, found := c.inodes[ino]
	if !found || !is(l) {
		l, found = c.paths[e.Path]
	}
	found = found && is(l)
	rec := l.Record
	if !found {
		if old, ok := c.known[e.Path]; ok && old.Time == e.ModTime.UnixNano() {
			return
		}
		rec.Owner = own
	}
	if rec != (Record{}) || found || c.settle {
		c.records.note(e, rec, nil)
	}
}

// read reads the record of a file or directory. One that overlayfs has copied belongs to root where it has none.
func (c *completer) read(fd int, base string) (r Record, found bool, err error) {
	n, err := growing(&c.buf, func(b []byte) (int, error) { return listxattrat(fd, base, b) })
	if err != nil {
		return r, false, err
	}
	for _, key := range strings.Split(string(c.buf[:n]), "\x00") {
		switch key {
		case OverlayOrigin:
			found = true
		case OwnerRecord:
			n, err := growing(&c.buf, func(b []byte) (int, error) { return unix.Lgetxattr(procPath(fd, base), OwnerRecord, b) })
			if err != nil {
				return r, false, err
			}
			if parsed, ok := ParseRecord(string(c.buf[:n])); ok {
				return parsed, true, nil
			}
		}
	}
	return r, found, nil
}
