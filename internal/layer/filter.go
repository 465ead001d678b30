package layer

import (
	"fmt"
	"io/fs"
	"sync"
)

// FilterOpt selects a part of a tree by patterns in the syntax of .dockerignore, where a later
// pattern takes precedence and "!" makes an exception.
type FilterOpt struct {
	Include []string // only what matches one of these, or lies below a match; none: everything
	Exclude []string // and none of these
}

// filtered shows the part of a tree that patterns select.
type filtered struct {
	t Tree

	include, exclude *patterns // nil: none

	mu    sync.Mutex
	state map[string]*match // of directories that were looked into
}

// match is what the patterns say of one path.
type match struct {
	in, ex           matched
	included         bool // selected itself
	enter            bool // a directory: something below may be selected
	visible, decided bool // a directory not selected itself: whether something below is
}

// Filter gives the part of a tree that the patterns select. A directory that is not selected is
// shown when something below is. An excluded directory is only entered when an exception may
// concern something below.
func Filter(t Tree, opt FilterOpt) (Tree, error) {
	f := &filtered{t: t, state: map[string]*match{}}
	var err error
	if f.include, err = newPatterns(opt.Include); err != nil {
		return nil, fmt.Errorf("reading include patterns: %w", err)
	}
	if f.exclude, err = newPatterns(opt.Exclude); err != nil {
		return nil, fmt.Errorf("reading exclude patterns: %w", err)
	}
	if f.include == nil && f.exclude == nil {
		return t, nil
	}
	return f, nil
}

func (f *filtered) Lstat(name string) (*Entry, error) {
	e, err := f.t.Lstat(name)
	if err != nil || name == "." {
		return e, err
	}
	parent, _ := split(name)
	up, err := f.match(parent)
	if err != nil {
		return nil, err
	}
	ok, err := f.shown(e, up)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, pathError("lstat", name, fs.ErrNotExist)
	}
	return e, nil
}

func (f *filtered) ReadDir(name string) ([]*Entry, error) {
	m, err := f.match(name)
	if err != nil {
		return nil, err
	}
	if !m.included && !m.enter {
		return nil, pathError("readdir", name, fs.ErrNotExist)
	}
	entries, err := f.t.ReadDir(name)
	if err != nil {
		return nil, err
	}
	out := make([]*Entry, 0, len(entries))
	for _, e := range entries {
		ok, err := f.shown(e, m)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// shown reports whether an entry of the underlying tree, in a directory of which up is known, is
// part of this one.
func (f *filtered) shown(e *Entry, up *match) (bool, error) {
	if !e.IsDir() {
		m, err := f.eval(e.Path, up, false)
		return err == nil && m.included, err
	}
	m, err := f.match(e.Path)
	if err != nil || m.included || !m.enter {
		return err == nil && m.included, err
	}
	f.mu.Lock()
	visible, decided := m.visible, m.decided
	f.mu.Unlock()
	if decided {
		return visible, nil
	}
	if visible, err = f.anyBelow(e.Path, m); err != nil {
		return false, err
	}
	f.mu.Lock()
	m.visible, m.decided = visible, true
	f.mu.Unlock()
	return visible, nil
}

func (f *filtered) anyBelow(dir string, m *match) (bool, error) {
	entries, err := f.t.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if ok, err := f.shown(e, m); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// match gives what the patterns say of a directory. The answer is remembered.
func (f *filtered) match(name string) (*match, error) {
	f.mu.Lock()
	m, ok := f.state[name]
	f.mu.Unlock()
	if ok {
		return m, nil
	}
	if name == "." {
		m = &match{included: true, in: matched{none: true}, ex: matched{none: true}}
	} else {
		parent, _ := split(name)
		up, err := f.match(parent)
		if err != nil {
			return nil, err
		}
		now, err := f.eval(name, up, true)
		if err != nil {
			return nil, err
		}
		m = &now
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, ok := f.state[name]; ok {
		return old, nil
	}
	f.state[name] = m
	return m, nil
}

// eval asks the patterns about a path in a directory of which up is known.
func (f *filtered) eval(name string, up *match, dir bool) (m match, err error) {
	m = match{included: true, enter: dir}
	if f.include != nil {
		if m.included, m.in, err = f.include.match(name, up.in); err != nil {
			return m, fmt.Errorf("matching %q against patterns: %w", name, err)
		}
		m.enter = dir && (m.included || f.include.mayMatchBelow(name, false))
	}
	if f.exclude != nil {
		var out bool
		if out, m.ex, err = f.exclude.match(name, up.ex); err != nil {
			return m, fmt.Errorf("matching %q against patterns: %w", name, err)
		}
		if out {
			m.included = false
			m.enter = m.enter && f.exclude.mayMatchBelow(name, true)
		}
	}
	return m, nil
}
