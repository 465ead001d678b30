package layer

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
)

// patterns is a list of patterns in the syntax of .dockerignore. It is safe for concurrent use.
type patterns struct {
	list       []*patternmatcher.Pattern
	exceptions bool
	matchers   sync.Pool // of *patternmatcher.PatternMatcher, which compile patterns when they match

	// marks are what paths have that patterns match, one for each pattern; nil: not known.
	marks []mark
	none  patternmatcher.MatchInfo // what matching gives for a path that no pattern matches
}

// mark is a text in all paths that one pattern matches.
type mark struct {
	text string
	end  bool // they end with it
}

func (m mark) of(name string) bool {
	if m.end {
		return strings.HasSuffix(name, m.text)
	}
	return strings.Contains(name, m.text)
}

// markOf gives a pattern's mark, with an empty text when it has none.
func markOf(pattern string) mark {
	if strings.ContainsAny(pattern, `\^`) {
		return mark{} // they become parts of regular expressions, with all that these may mean
	}
	// "**/" stands for nothing, too.
	end := strings.Trim(pattern[strings.LastIndexAny(pattern, "*?[]")+1:], "/")
	if end != "" {
		return mark{end, true}
	}
	literal, _, _ := strings.Cut(pattern, "[")
	longest := ""
	for _, s := range strings.FieldsFunc(literal, func(r rune) bool { return strings.ContainsRune("*?]", r) }) {
		if s = strings.Trim(s, "/"); len(s) > len(longest) {
			longest = s
		}
	}
	return mark{text: longest}
}

// matched is what is known of a directory for matching what is inside of it.
type matched struct {
	info patternmatcher.MatchInfo
	none bool // no pattern matches it or a directory above it
}

// What a list of patterns may be: each becomes a regular expression, which takes some kilobytes, for
// each core.
const (
	maxPatterns    = 50_000
	maxPatternText = 1 << 20
)

// newPatterns gives nil when there are no patterns.
func newPatterns(texts []string) (*patterns, error) {
	size := 0
	for _, t := range texts {
		size += len(t)
	}
	if len(texts) > maxPatterns || size > maxPatternText {
		return nil, fmt.Errorf("%d patterns of %d bytes together: there may be %d of %d bytes (in .dockerignore, or of --exclude)",
			len(texts), size, maxPatterns, maxPatternText)
	}
	pm, err := patternmatcher.New(texts)
	if err != nil || len(pm.Patterns()) == 0 {
		return nil, err
	}
	p := &patterns{list: pm.Patterns(), exceptions: pm.Exclusions()}
	p.matchers.New = func() any {
		pm, err := patternmatcher.New(texts)
		if err != nil {
			panic(err) // it was fine before
		}
		return pm
	}
	p.shorten()
	return p, nil
}

// shorten prepares the shortcut for paths that no pattern matches.
func (p *patterns) shorten() {
	marks := make([]mark, len(p.list))
	for i, pattern := range p.list {
		text := pattern.String()
		// A pattern that is found bad when it is used must be used.
		alone, err := patternmatcher.New([]string{text})
		if err == nil {
			_, err = alone.MatchesOrParentMatches("x")
		}
		if err != nil {
			return
		}
		if marks[i] = markOf(text); marks[i].text == "" {
			return // the shortcut would never be taken
		}
	}
	// No such path exists, and no pattern has it: patterns are clean, except for what a wildcard is for.
	const nothing = "\x00/\x00"
	for _, m := range marks {
		if m.of(nothing) {
			return
		}
	}
	pm := p.matchers.Get().(*patternmatcher.PatternMatcher)
	defer p.matchers.Put(pm)
	if ok, info, err := pm.MatchesUsingParentResults(nothing, patternmatcher.MatchInfo{}); err == nil && !ok {
		p.marks, p.none = marks, info
	}
}

// match tells whether the patterns match a path in a directory of which up is known.
func (p *patterns) match(name string, up matched) (bool, matched, error) {
	if up.none && p.hopeless(name) {
		return false, matched{p.none, true}, nil
	}
	pm := p.matchers.Get().(*patternmatcher.PatternMatcher)
	defer p.matchers.Put(pm)
	ok, info, err := pm.MatchesUsingParentResults(name, up.info)
	return ok, matched{info: info}, err
}

// hopeless reports whether a path surely is matched by no pattern, when that holds for the
// directory that it is in.
func (p *patterns) hopeless(name string) bool {
	if p.marks == nil {
		return false
	}
	for _, m := range p.marks {
		if m.of(name) {
			return false
		}
	}
	return true
}

// mayMatchBelow tells whether a pattern, or with exceptions one that begins with "!", can match
// something below a directory.
func (p *patterns) mayMatchBelow(dir string, exceptions bool) bool {
	if exceptions && !p.exceptions {
		return false
	}
	parts := strings.Split(dir, "/")
	for _, p := range p.list {
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
