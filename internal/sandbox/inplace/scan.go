package inplace

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// stamp tells a version of a file from another one. No program can set the time of the last change (ctime), and each change
// of a file or of its attributes sets it.
type stamp struct {
	ino                 uint64
	born, ctime, mtime  int64 // nanoseconds; a file with the number of another one that was removed has another birth
	size                int64
	uid, gid, mode, dev uint32
	links               uint32 // names that a file has
}

func (s *stamp) isDir() bool { return s.mode&unix.S_IFMT == unix.S_IFDIR }

// is reports whether two stamps are of one file or directory, whatever became of it.
func (s *stamp) is(o *stamp) bool {
	return s.ino == o.ino && s.born == o.born && s.mode&unix.S_IFMT == o.mode&unix.S_IFMT
}

// stamps are those of single paths.
type stamps map[string]stamp

// linked are those of files with several names, by their inodes: what is done to one name shows at all.
func (s stamps) linked() map[uint64]stamp {
	all := map[uint64]stamp{}
	for _, st := range s {
		if st.links > 1 {
			all[st.ino] = st
		}
	}
	return all
}

// dir is a directory at the time of a scan.
type dir struct{ entries []entry } // by name

type entry struct {
	name  string
	stamp stamp
	dir   *dir // of a directory
}

// find is the entry at a path, or nil.
func (d *dir) find(path string) *entry {
	for {
		first, rest, more := strings.Cut(path, "/")
		i, ok := slices.BinarySearchFunc(d.entries, first, func(e entry, name string) int { return strings.Compare(e.name, name) })
		switch {
		case !ok:
			return nil
		case !more:
			return &d.entries[i]
		case d.entries[i].dir == nil:
			return nil
		}
		d, path = d.entries[i].dir, rest
	}
}

// relabel gives the entries of files with several names new stamps.
func (d *dir) relabel(linked map[uint64]stamp) {
	for i := range d.entries {
		e := &d.entries[i]
		if e.dir != nil {
			e.dir.relabel(linked)
		} else if e.stamp.links > 1 {
			if st, ok := linked[e.stamp.ino]; ok && st.is(&e.stamp) {
				e.stamp = st
			}
		}
	}
}

const stampMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// stampAt gives the stamp of an entry of a directory, or of the directory itself by the name "".
func stampAt(fd int, name string) (stamp, error) {
	var x unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Statx(fd, name, flags, stampMask, &x); err != nil {
		return stamp{}, err
	}
	return stampOf(&x), nil
}

func stampOf(x *unix.Statx_t) stamp {
	s := stamp{
		ino: x.Ino, ctime: nano(x.Ctime), mtime: nano(x.Mtime), size: int64(x.Size), uid: x.Uid, gid: x.Gid, mode: uint32(x.Mode),
		dev: uint32(unix.Mkdev(x.Rdev_major, x.Rdev_minor)),
	}
	if x.Mask&unix.STATX_BTIME != 0 {
		s.born = nano(x.Btime)
	}
	if s.isDir() {
		s.size = 0 // it is the filesystem's affair
	} else {
		s.links = x.Nlink
	}
	return s
}

func nano(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// scanner reads a tree with as many threads as there are processors.
type scanner struct {
	free chan struct{}
	all  sync.WaitGroup

	newest atomic.Int64 // time of change

	mu  sync.Mutex
	err error
}

// scan reads what is in an open directory, and below it. No content of files is read.
func scan(fd int) (top *dir, newest int64, err error) {
	s := &scanner{free: make(chan struct{}, max(runtime.GOMAXPROCS(0)-1, 0))}
	top = &dir{}
	s.read(fd, top, ".")
	s.all.Wait()
	return top, s.newest.Load(), s.err
}

func (s *scanner) fail(path string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf("looking for what the step changed: %w", &os.PathError{Op: "read", Path: "/" + path, Err: err})
	}
}

func (s *scanner) read(fd int, d *dir, path string) {
	names, err := readNames(fd)
	if err != nil {
		s.fail(path, err)
		return
	}
	d.entries = make([]entry, len(names))
	var newest int64
	defer func() {
		for now := s.newest.Load(); newest > now && !s.newest.CompareAndSwap(now, newest); now = s.newest.Load() {
		}
	}()
	for i, name := range names {
		e := &d.entries[i]
		e.name = name
		if e.stamp, err = stampAt(fd, name); err != nil {
			s.fail(join(path, name), err)
			return
		}
		newest = max(newest, e.stamp.ctime)
		if !e.stamp.isDir() {
			continue
		}
		e.dir = &dir{}
		sub, err := openDir(fd, name)
		if err != nil {
			s.fail(join(path, name), err)
			return
		}
		below := join(path, name)
		select {
		case s.free <- struct{}{}:
			s.all.Go(func() {
				defer func() { <-s.free }()
				defer unix.Close(sub)
				s.read(sub, e.dir, below)
			})
		default:
			s.read(sub, e.dir, below)
			unix.Close(sub)
		}
	}
}
