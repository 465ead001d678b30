package migrate

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerfile is one as lines and instructions.
type dockerfile struct {
	build  *Build
	lines  []string
	nodes  []*parser.Node
	stages []*stage
	syntax string // of the line "# syntax=", or ""
	escape string // of "# escape=", or ""
}

type stage struct {
	name string // as it is, or will be; "" is none
	node *parser.Node
	base string
}

func parseDockerfile(b *Build) (*dockerfile, error) {
	res, err := parser.Parse(strings.NewReader(b.Text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.File, err)
	}
	d := &dockerfile{build: b, lines: strings.Split(strings.TrimRight(b.Text, "\n"), "\n"), nodes: res.AST.Children}
directives:
	for i, line := range d.lines { // directives come first
		key, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")), "=")
		if !strings.HasPrefix(strings.TrimSpace(line), "#") || !ok {
			break
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "syntax":
			d.syntax, d.lines[i] = strings.TrimSpace(value), removedLine
		case "escape":
			d.escape, d.lines[i] = strings.TrimSpace(value), removedLine
		case "check":
		default: // a comment, after which none counts
			break directives
		}
	}
	for _, n := range d.nodes {
		if strings.EqualFold(n.Value, "FROM") {
			s := &stage{node: n}
			words := wordsOf(n)
			if len(words) > 0 {
				s.base = words[0]
			}
			if len(words) == 3 && strings.EqualFold(words[1], "AS") {
				s.name = words[2]
			}
			d.stages = append(d.stages, s)
		}
	}
	if len(d.stages) == 0 {
		return nil, fmt.Errorf("%s: there is no FROM", b.File)
	}
	return d, nil
}

// removedLine is a line that is left out.
const removedLine = "\x00"

func wordsOf(n *parser.Node) (all []string) {
	for w := n.Next; w != nil; w = w.Next {
		all = append(all, w.Value)
	}
	return all
}

// find is the stage that a name, or a number, stands for among the first n; nil is none.
func (d *dockerfile) find(name string, n int) *stage {
	for i := n - 1; i >= 0; i-- {
		if strings.EqualFold(d.stages[i].name, name) && name != "" {
			return d.stages[i]
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < n {
		return d.stages[i]
	}
	return nil
}

// last is the stage that the build is for.
func (d *dockerfile) last() *stage {
	if d.build.Target != "" {
		if s := d.find(d.build.Target, len(d.stages)); s != nil {
			return s
		}
	}
	return d.stages[len(d.stages)-1]
}

// set puts text in the place of an instruction; "" leaves it out.
func (d *dockerfile) set(n *parser.Node, text string) {
	for i := n.StartLine; i <= min(n.EndLine, len(d.lines)); i++ {
		d.lines[i-1] = removedLine
	}
	if text != "" {
		d.lines[n.StartLine-1] = text
	}
}

// original is an instruction as it is written now.
func (d *dockerfile) original(n *parser.Node) string {
	return strings.Join(d.lines[n.StartLine-1:min(n.EndLine, len(d.lines))], "\n")
}

// text is what is left of the file.
func (d *dockerfile) text() string {
	kept := slices.DeleteFunc(slices.Clone(d.lines), func(l string) bool { return l == removedLine })
	return strings.Trim(strings.Join(kept, "\n"), "\n") + "\n"
}

func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}

// copyLine writes a COPY.
func copyLine(keyword string, flags, words []string) string {
	parts := append([]string{keyword}, flags...)
	if slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, " \t\"") }) {
		return strings.Join(append(parts, jsonWords(words)), " ")
	}
	return strings.Join(append(parts, words...), " ")
}

// expander gives the values of variables that a Dockerfile itself, or the build, sets.
func (d *dockerfile) expand(s string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	vars := map[string]string{}
	for _, n := range d.nodes {
		switch strings.ToUpper(n.Value) {
		case "ARG":
			for _, w := range wordsOf(n) {
				if name, value, ok := strings.Cut(w, "="); ok {
					vars[name] = strings.Trim(value, `"'`)
				}
			}
		case "ENV":
			words := wordsOf(n)
			for i := 0; i+1 < len(words); i += 3 {
				vars[words[i]] = strings.Trim(words[i+1], `"'`)
			}
		}
	}
	for _, a := range d.build.Args {
		vars[a.Name] = a.Value
	}
	return os.Expand(s, func(name string) string {
		if v, ok := vars[name]; ok {
			return v
		}
		return "${" + name + "}"
	})
}

// nameOf makes a name for the stage of an image.
func nameOf(b *Build) string {
	name := "build"
	if len(b.Names) > 0 {
		name, _, _ = strings.Cut(path.Base(b.Names[0]), ":")
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	if clean = strings.TrimLeft(clean, "0123456789-_."); clean == "" {
		return "build"
	}
	return clean
}
