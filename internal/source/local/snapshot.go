package local

import (
	"cmp"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/slipway-build/slipway/internal/layer"
)

// snapshot is a tree that stays as it was when each part of it was first read: what a build copies
// are the names and attributes that it digested, and each directory is read once. Contents are not
// held: a file that was written to since cannot be opened any more.
//
// Its entries are shared: nobody may change them.
type snapshot struct {
	tree    layer.Tree
	digests *digests

	mu    sync.Mutex
	dirs  map[string]*listing
	files map[string]*layer.Entry // by path, that were asked for before their directory was read
}

// listing is one directory.
type listing struct {
	mu   sync.Mutex
	read bool
	list []*layer.Entry // in byte order; never changed, but replaced
}

func newSnapshot(t layer.Tree, d *digests) *snapshot {
	return &snapshot{tree: t, digests: d, dirs: map[string]*listing{}, files: map[string]*layer.Entry{}}
}

// listing gives the one of a directory, nil when it was not asked for and make is not set.
func (s *snapshot) listing(dir string, create bool) *listing {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.dirs[dir]
	if l == nil && create {
		l = &listing{}
		s.dirs[dir] = l
	}
	return l
}

// ReadDir implements [layer.Tree].
func (s *snapshot) ReadDir(dir string) ([]*layer.Entry, error) {
	l := s.listing(dir, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.read {
		s.refresh(l)
		return slices.Clone(l.list), nil
	}
	list, err := s.tree.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	for i, e := range list {
		if old := s.files[e.Path]; old != nil {
			list[i] = old
		}
	}
	s.mu.Unlock()
	l.list, l.read = list, true
	return slices.Clone(list), nil
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
		list, read := l.list, l.read
		l.mu.Unlock()
		if read {
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
