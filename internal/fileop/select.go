package fileop

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// match is one source of a copy: what its path, or a wildcard in it, names.
type match struct {
	name  string       // absolute, as written; its last component names the copy
	entry *layer.Entry // where it really is
}

// matches finds the sources of a copy, in byte order: where patterns select from what is below, directories alone. No match of a wildcard is only an error
// where the copy does not allow it; a path without one must exist.
func matches(t layer.Tree, c *pb.FileActionCopy) ([]match, error) {
	names := []string{cleanPath(c.Src)}
	if c.AllowWildcard {
		var err error
		if names, err = wildcard(t, names[0], c.FollowSymlink); err != nil {
			return nil, err
		}
		if len(names) == 0 && !c.AllowEmptyWildcard {
			return nil, &NotFoundError{Path: cleanPath(c.Src)}
		}
	}
	var out []match
	for _, name := range names {
		var e *layer.Entry
		p, err := resolveSource(t, name, c.FollowSymlink)
		if err == nil {
			e, err = t.Lstat(p)
		}
		if missing(err) || errors.Is(err, unix.ENOTDIR) {
			return nil, &NotFoundError{Path: path.Clean(name)}
		}
		if err != nil {
			return nil, fmt.Errorf("reading source %q: %w", path.Clean(name), err)
		}
		if len(c.IncludePatterns) > 0 && !e.IsDir() {
			continue // patterns select from what is below a match, and nothing is below this one
		}
		out = append(out, match{name: name, entry: e})
	}
	return out, nil
}

// resolveSource follows the links on the way to a source, and the last one with follow.
func resolveSource(t layer.Tree, name string, follow bool) (string, error) {
	return layer.Resolve(t, path.Clean("/"+name), follow)
}

// wildcard expands the wildcards of a path. Without any the path itself is the result, whether it
// exists or not, without a trailing "/" or "/.".
func wildcard(t layer.Tree, name string, follow bool) ([]string, error) {
	parts := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	fixed := 0
	for fixed < len(parts) && !hasWildcard(parts[fixed]) {
		fixed++
	}
	prefix := "/" + strings.Join(parts[:fixed], "/")
	if fixed == len(parts) {
		return []string{prefix}, nil
	}
	dir, err := resolveSource(t, prefix, follow)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(dir)
	if missing(err) {
		return nil, &NotFoundError{Path: prefix}
	}
	if err != nil {
		return nil, err
	}
	if !e.IsDir() {
		return nil, nil
	}
	return expand(t, dir, parts[fixed:])
}

func expand(t layer.Tree, dir string, parts []string) ([]string, error) {
	entries, err := t.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		// A malformed pattern matches nothing.
		if ok, _ := path.Match(parts[0], path.Base(e.Path)); !ok {
			continue
		}
		if len(parts) == 1 {
			out = append(out, abs(e.Path))
		} else if e.IsDir() {
			more, err := expand(t, e.Path, parts[1:])
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

func hasWildcard(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// item is one object that a copy takes.
type item struct {
	rel   string // path relative to the match; "" is the match itself
	entry *layer.Entry
	// passing: the object is a directory that the patterns do not select; it is copied because
	// something below it is.
	passing bool
}

// errWhole says of a directory that all that is below it needs no visit.
var errWhole = errors.New("directory is dealt with")

// selector decides what a copy takes from below its matches.
type selector struct {
	tree             layer.Tree
	dirs             *layer.DirsAhead // of the current run
	include, exclude *patternmatcher.PatternMatcher
	visit            func(item) error // of a directory it may return errWhole
	name             string           // absolute, of the current match as it was written
	below            int              // where in the path of an entry below the match its relative path begins
	passing          []item           // directories above the current one that were not visited yet, nil once they were
	required         []string
	found            map[string]bool // of required
}

func newSelector(t layer.Tree, c *pb.FileActionCopy, visit func(item) error) (*selector, error) {
	s := &selector{tree: t, visit: visit, found: map[string]bool{}}
	var err error
	if len(c.IncludePatterns) > 0 {
		if s.include, err = patternmatcher.New(c.IncludePatterns); err != nil {
			return nil, fmt.Errorf("invalid include patterns %q: %w", c.IncludePatterns, err)
		}
	}
	if len(c.ExcludePatterns) > 0 {
		if s.exclude, err = patternmatcher.New(c.ExcludePatterns); err != nil {
			return nil, fmt.Errorf("invalid exclude patterns %q: %w", c.ExcludePatterns, err)
		}
	}
	if s.include != nil {
		for _, r := range c.RequiredPaths {
			s.required = append(s.required, path.Clean("/"+r))
		}
	}
	return s, nil
}

// run visits what is selected of a match, parents before children, siblings in byte order.
func (s *selector) run(ctx context.Context, m match) error {
	s.passing, s.name, s.below = nil, path.Clean(m.name), 0
	if m.entry.Path != "." {
		s.below = len(m.entry.Path) + 1
	}
	s.dirs = layer.ReadDirsAhead(s.tree)
	defer s.dirs.Close()
	return s.walk(ctx, item{entry: m.entry}, patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
}

// finish checks after all runs that the required paths were among what was selected.
func (s *selector) finish() error {
	for _, r := range s.required {
		if !s.found[r] {
			return &NotFoundError{Path: r}
		}
	}
	return nil
}

func (s *selector) walk(ctx context.Context, it item, in, ex patternmatcher.MatchInfo) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	selected, excluded := true, false
	if it.rel != "" {
		var err error
		if s.include != nil {
			if selected, in, err = s.include.MatchesUsingParentResults(it.rel, in); err != nil {
				return fmt.Errorf("matching include patterns: %w", err)
			}
		}
		if s.exclude != nil {
			if excluded, ex, err = s.exclude.MatchesUsingParentResults(it.rel, ex); err != nil {
				return fmt.Errorf("matching exclude patterns: %w", err)
			}
		}
		selected = selected && !excluded
	}
	if selected {
		if err := s.take(it); err == errWhole {
			return nil
		} else if err != nil {
			return err
		}
	}
	if !it.entry.IsDir() || (excluded && !s.exclude.Exclusions()) {
		return nil
	}
	depth := len(s.passing)
	if !selected {
		s.passing = append(s.passing, item{rel: it.rel, entry: it.entry, passing: true})
	}
	entries, err := s.dirs.ReadDir(it.entry.Path)
	if err != nil {
		return fmt.Errorf("reading source directory %q: %w", abs(it.entry.Path), err)
	}
	if err := s.expect(entries, ex); err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.walk(ctx, item{rel: e.Path[s.below:], entry: e}, in, ex); err != nil {
			return err
		}
	}
	// Those taken meanwhile have left the list already.
	s.passing = s.passing[:min(depth, len(s.passing))]
	return nil
}

// expect announces which of a directory's entries will be read as directories.
func (s *selector) expect(entries []*layer.Entry, ex patternmatcher.MatchInfo) error {
	var dirs []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if s.exclude != nil && !s.exclude.Exclusions() {
			excluded, _, err := s.exclude.MatchesUsingParentResults(e.Path[s.below:], ex)
			if err != nil {
				return fmt.Errorf("matching exclude patterns: %w", err)
			}
			if excluded {
				continue
			}
		}
		dirs = append(dirs, e.Path)
	}
	if len(dirs) > 0 {
		s.dirs.Expect(dirs)
	}
	return nil
}

// take visits an object, after the directories above it that were passed so far.
func (s *selector) take(it item) error {
	for _, p := range s.passing {
		if err := s.visit(p); err != nil {
			return err
		}
	}
	s.passing = nil
	for _, r := range s.required {
		if name := path.Join(s.name, it.rel); name == r || strings.HasPrefix(name, r+"/") || r == "/" {
			s.found[r] = true
		}
	}
	return s.visit(it)
}
