package layer

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
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

	mu               sync.Mutex // the matchers are not safe for concurrent use
	include, exclude *patternmatcher.PatternMatcher
	state            map[string]*match // of directories that were looked into
}

// match is what the patterns say of one path.
type match struct {
	in, ex           patternmatcher.MatchInfo
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
	if f.include, err = matcher(opt.Include); err != nil {
		return nil, fmt.Errorf("reading include patterns: %w", err)
	}
	if f.exclude, err = matcher(opt.Exclude); err != nil {
		return nil, fmt.Errorf("reading exclude patterns: %w", err)
	}
	if f.include == nil && f.exclude == nil {
		return t, nil
	}
	return f, nil
}

func matcher(patterns []string) (*patternmatcher.PatternMatcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	if len(m.Patterns()) == 0 {
		return nil, nil
	}
	return m, nil
}

func (f *filtered) Lstat(name string) (*Entry, error) {
	e, err := f.t.Lstat(name)
	if err != nil || name == "." {
		return e, err
	}
	ok, err := f.shown(e)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, pathError("lstat", name, fs.ErrNotExist)
	}
	return e, nil
}

func (f *filtered) ReadDir(name string) ([]*Entry, error) {
	m, err := f.match(name, true)
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
	out := entries[:0:0]
	for _, e := range entries {
		ok, err := f.shown(e)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// shown reports whether an entry of the underlying tree is part of this one.
func (f *filtered) shown(e *Entry) (bool, error) {
	m, err := f.match(e.Path, e.IsDir())
	if err != nil || m.included || !e.IsDir() || !m.enter {
		return err == nil && m.included, err
	}
	f.mu.Lock()
	visible, decided := m.visible, m.decided
	f.mu.Unlock()
	if decided {
		return visible, nil
	}
	if visible, err = f.anyBelow(e.Path); err != nil {
		return false, err
	}
	f.mu.Lock()
	m.visible, m.decided = visible, true
	f.mu.Unlock()
	return visible, nil
}

func (f *filtered) anyBelow(dir string) (bool, error) {
	entries, err := f.t.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if ok, err := f.shown(e); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// match gives what the patterns say of a path; the answer for directories is remembered.
func (f *filtered) match(name string, dir bool) (*match, error) {
	f.mu.Lock()
	m, ok := f.state[name]
	f.mu.Unlock()
	if ok {
		return m, nil
	}
	if name == "." {
		m = &match{included: true}
	} else {
		parent, _ := split(name)
		up, err := f.match(parent, true)
		if err != nil {
			return nil, err
		}
		if m, err = f.eval(name, up); err != nil {
			return nil, fmt.Errorf("matching %q against patterns: %w", name, err)
		}
	}
	if dir {
		f.mu.Lock()
		defer f.mu.Unlock()
		if old, ok := f.state[name]; ok {
			return old, nil
		}
		f.state[name] = m
	}
	return m, nil
}

func (f *filtered) eval(name string, up *match) (*match, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := &match{included: true, enter: true}
	var err error
	if f.include != nil {
		if m.included, m.in, err = f.include.MatchesUsingParentResults(name, up.in); err != nil {
			return nil, err
		}
		m.enter = m.included || mayMatchBelow(f.include, name, false)
	}
	if f.exclude != nil {
		out, info, err := f.exclude.MatchesUsingParentResults(name, up.ex)
		if err != nil {
			return nil, err
		}
		m.ex = info
		if out {
			m.included = false
			m.enter = m.enter && mayMatchBelow(f.exclude, name, true)
		}
	}
	return m, nil
}

// mayMatchBelow tells whether a pattern, or with exceptions one that begins with "!", can match
// something below a directory.
func mayMatchBelow(pm *patternmatcher.PatternMatcher, dir string, exceptions bool) bool {
	if exceptions && !pm.Exclusions() {
		return false
	}
	parts := strings.Split(dir, "/")
	for _, p := range pm.Patterns() {
		if p.Exclusion() == exceptions && prefixMatches(strings.Split(strings.TrimPrefix(p.String(), "/"), "/"), parts) {
			return true
		}
	}
	return false
}

func prefixMatches(pattern, dir []string) bool {
	for i, part := range dir {
		if i == len(pattern) {
			return true // the pattern matches a directory above, so all that is below
		}
		if strings.Contains(pattern[i], "**") {
			return true
		}
		if ok, err := filepath.Match(pattern[i], part); !ok || err != nil {
			return false
		}
	}
	return true
}
