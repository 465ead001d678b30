package local

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/slipway-build/slipway/internal/layer"
)

// snapshot is a tree that stays as it was when each part of it was first read: what a build copies
// are the names and attributes that it digested, and each directory is read once. Contents are not
// held: a file that was written to since cannot be opened any more.
//
// Its entries are shared: nobody may change them. Of a large context most are in a file without a name.
type snapshot struct {
	tree    layer.Tree
	dir     layer.Tree // that tree is a part of
	digests layer.Memory
	tmp     string // where the file without a name is

	mu    sync.Mutex
	dirs  map[string]*listing
	files map[string]*layer.Entry // by path, that were asked for before their directory was read

	spill struct { // after a listing's mu
		mu     sync.Mutex
		queue  []*listing // whose entries are in memory, the oldest first
		held   int        // entries in memory
		file   *os.File
		size   int64
		failed bool
		buf    []byte
	}
}

// maxHeld is how many entries are in memory before the oldest directories leave it.
const maxHeld = 32 << 10

// listing is one directory.
type listing struct {
	dir string

	mu     sync.Mutex
	read   bool
	list   []*layer.Entry // in byte order; never changed, but replaced; nil when it is in the file
	at     int64          // where in the file
	length int            // 0: it is not there
}

func newSnapshot(t, dir layer.Tree, d layer.Memory, tmp string) *snapshot {
	return &snapshot{tree: t, dir: dir, digests: d, tmp: tmp, dirs: map[string]*listing{}, files: map[string]*layer.Entry{}}
}

// listing gives the one of a directory, nil when it was not asked for and make is not set.
func (s *snapshot) listing(dir string, create bool) *listing {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.dirs[dir]
	if l == nil && create {
		l = &listing{dir: dir}
		s.dirs[dir] = l
	}
	return l
}

// ReadDir implements [layer.Tree].
func (s *snapshot) ReadDir(dir string) ([]*layer.Entry, error) {
	l := s.listing(dir, true)
	list, fresh, err := s.readListing(l)
	if err != nil {
		return nil, err
	}
	if fresh {
		s.hold(l, len(list))
	}
	return slices.Clone(list), nil
}

// readListing reads a directory, if need be from where it was put; fresh: it was not in memory.
func (s *snapshot) readListing(l *listing) (_ []*layer.Entry, fresh bool, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list != nil {
		s.refresh(l)
		return l.list, false, nil
	}
	if l.read {
		list, err := s.recover(l)
		l.list = list
		return list, true, err
	}
	list, err := s.tree.ReadDir(l.dir)
	if err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	for i, e := range list {
		if old := s.files[e.Path]; old != nil {
			list[i] = old
		}
	}
	s.mu.Unlock()
	l.list, l.read = list, true
	return list, true, nil
}

// hold counts the entries of a directory that were read into memory, and puts others into the file.
func (s *snapshot) hold(l *listing, n int) {
	p := &s.spill
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue, p.held = append(p.queue, l), p.held+n
	for p.held > maxHeld && len(p.queue) > 1 && !p.failed {
		old := p.queue[0]
		p.queue[0], p.queue = nil, p.queue[1:]
		if !old.mu.TryLock() { // somebody reads it just now
			p.queue = append(p.queue, old)
			return
		}
		n := len(old.list)
		if old.length == 0 && n > 0 {
			p.failed = s.put(old) != nil // then they stay in memory
		}
		if !p.failed {
			old.list, p.held = nil, p.held-n
		}
		old.mu.Unlock()
	}
}

// put writes a directory's entries to the file.
func (s *snapshot) put(l *listing) (err error) {
	p := &s.spill
	if p.file == nil {
		if p.file, err = layer.TempFile(s.tmp); err != nil {
			return err
		}
	}
	p.buf = layer.AppendListing(p.buf[:0], l.dir, l.list)
	if _, err := p.file.WriteAt(p.buf, p.size); err != nil {
		return err
	}
	l.at, l.length = p.size, len(p.buf)
	p.size += int64(l.length)
	return nil
}

// recover reads a directory's entries from the file.
func (s *snapshot) recover(l *listing) ([]*layer.Entry, error) {
	if l.length == 0 {
		return []*layer.Entry{}, nil
	}
	b := make([]byte, l.length)
	if _, err := s.spill.file.ReadAt(b, l.at); err != nil {
		return nil, fmt.Errorf("reading what %q had: %w", l.dir, err)
	}
	list, err := layer.ReadListing(b, s.dir, l.dir)
	for _, e := range list {
		if f, ok := e.Content.(layer.Stamped); ok && e.Digest == "" {
			e.Digest = s.digests.Recall(f.Stamp()) // nobody else has the entry so far
		}
	}
	return list, err
}

// refresh looks up digests that were not known when the directory was read.
func (s *snapshot) refresh(l *listing) {
	shared := true
	for i, e := range l.list {
		now := s.digested(e)
		if now == e {
			continue
		}
		if shared {
			l.list, shared = slices.Clone(l.list), false
		}
		l.list[i] = now
	}
}

// digested is the entry with its content's digest, if that is known by now.
func (s *snapshot) digested(e *layer.Entry) *layer.Entry {
	f, ok := e.Content.(layer.Stamped)
	if !ok || e.Digest != "" {
		return e
	}
	sum := s.digests.Recall(f.Stamp())
	if sum == "" {
		return e
	}
	c := *e
	c.Digest = sum
	return &c
}

// Lstat implements [layer.Tree].
func (s *snapshot) Lstat(name string) (*layer.Entry, error) {
	if l := s.listing(path.Dir(name), false); l != nil && name != "." {
		l.mu.Lock()
		read := l.read
		l.mu.Unlock()
		if read {
			list, fresh, err := s.readListing(l)
			if err != nil {
				return nil, err
			}
			if fresh {
				s.hold(l, len(list))
			}
			i, ok := slices.BinarySearchFunc(list, name, func(e *layer.Entry, name string) int { return cmp.Compare(e.Path, name) })
			if !ok {
				return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
			}
			return s.digested(list[i]), nil
		}
	}
	s.mu.Lock()
	e := s.files[name]
	s.mu.Unlock()
	if e == nil {
		var err error
		if e, err = s.tree.Lstat(name); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if old := s.files[name]; old != nil {
			e = old
		}
		s.files[name] = e
		s.mu.Unlock()
	}
	return s.digested(e), nil
}
