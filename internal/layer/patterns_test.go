package layer

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

// What patterns say of a path is what the matcher says, also where it is not asked.
func TestPatterns(t *testing.T) {
	names := []string{"a", "b", "ab", "a.md", "b.log", "a*b", ".x", "é"}
	var paths []string
	for _, x := range names {
		paths = append(paths, x)
		for _, y := range names {
			paths = append(paths, x+"/"+y)
			for _, z := range names {
				paths = append(paths, x+"/"+y+"/"+z)
			}
		}
	}
	pieces := []string{"a", "b", "ab", ".md", ".log", "*", "**", "?", "[ab]", "[^a]", `\*`, `\a`, "/", "**/", "/**", ".", "é", "^", "$", "+", "!"}
	short, tested := 0, 0
	for seed := range int64(2000) {
		r := rand.New(rand.NewSource(seed))
		var texts []string
		for range 1 + r.Intn(4) {
			text := ""
			if r.Intn(4) == 0 {
				text = "!"
			}
			for range 1 + r.Intn(4) {
				text += pieces[r.Intn(len(pieces))]
			}
			texts = append(texts, text)
		}
		want, err := patternmatcher.New(texts)
		p, perr := newPatterns(texts)
		if (err == nil) != (perr == nil) {
			t.Fatalf("%q: %v, but the matcher says %v", texts, perr, err)
		}
		if err != nil || p == nil {
			continue
		}
		if p.marks != nil {
			short++
		}
		tested++
		all, infos := map[string]patternmatcher.MatchInfo{}, map[string]matched{".": {none: true}}
		for _, path := range paths { // parents come first
			dir, _ := split(path)
			if _, ok := infos[dir]; !ok {
				continue // bad above
			}
			w, wi, werr := want.MatchesUsingParentResults(path, all[dir])
			g, gi, gerr := p.match(path, infos[dir])
			if w != g || (werr == nil) != (gerr == nil) {
				t.Fatalf("%q on %q: got %v, %v, want %v, %v", texts, path, g, gerr, w, werr)
			}
			if werr == nil {
				all[path], infos[path] = wi, gi
			}
		}
	}
	if short < tested/10 || short == tested {
		t.Errorf("the shortcut is open to %d of %d lists", short, tested)
	}
}

// The patterns of usual projects take the shortcut.
func TestPatternsAreShort(t *testing.T) {
	p, err := newPatterns([]string{".git", "**/node_modules", "*.md", "!README.md", "tmp/", "**/*.py[cod]", "/.env*", "zz/**"})
	const want = "[{.git true} {node_modules true} {.md true} {README.md true} {tmp true} {.py false} {.env false} {zz false}]"
	if err != nil || fmt.Sprint(p.marks) != want {
		t.Errorf("marks are %v, %v, want %s", p.marks, err, want)
	}
	for name, want := range map[string]bool{"src/main.go": true, "x.pyc": false, "x.py": false, "README.md": false, ".envrc": false, "b/c/fizz": false} {
		if p.hopeless(name) != want {
			t.Errorf("%s: want %v", name, want)
		}
	}
	for _, text := range []string{"*", "*/?", `a\bc`, "^a"} {
		if p, err = newPatterns([]string{text, "!src"}); err != nil || p.marks != nil {
			t.Errorf("%s: %v, %v", text, p.marks, err)
		}
	}
}

// TestPatternsAreBounded: a list of patterns takes memory that whoever wrote a .dockerignore chooses.
func TestPatternsAreBounded(t *testing.T) {
	for name, texts := range map[string][]string{
		"many": slices.Repeat([]string{"a*b"}, maxPatterns+1),
		"long": slices.Repeat([]string{strings.Repeat("x", 1<<10)}, maxPatternText>>10+1),
	} {
		if _, err := Filter(nil, FilterOpt{Exclude: texts}); err == nil || !strings.Contains(err.Error(), "there may be 50000 of 1048576 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newPatterns(slices.Repeat([]string{"ab"}, maxPatterns)); err != nil {
		t.Error(err)
	}
}
