package bake

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Text is a definition: the string literal of a Go file, the fenced block of a Markdown file, or a whole file of a module.
type Text struct {
	Module string   `json:"module,omitempty"` // buildx unless told
	Path   string   `json:"path,omitempty"`
	Number int      `json:"number,omitempty"` // of the literal or the block, from 1
	Args   []string `json:"args,omitempty"`   // what stands for the verbs in it, as for fmt.Sprintf
	Plain  *string  `json:"plain,omitempty"`  // what is in no file
}

// Buildx is the module with most definitions.
const Buildx = "github.com/docker/buildx"

// Sources are the files of modules.
type Sources struct {
	dirs map[string]string // by module
	mu   sync.Mutex
	read map[string][]string // the texts in a file, by module and path
}

// NewSources finds the modules, in the versions that this module requires.
func NewSources(modules map[string]string) (*Sources, error) {
	s := &Sources{dirs: map[string]string{}, read: map[string][]string{}}
	for module, version := range modules {
		out, err := exec.Command("go", "mod", "download", "-json", module+"@"+version).Output()
		if err != nil {
			return nil, fmt.Errorf("finding module %s: %w", module, err)
		}
		var m struct{ Dir string }
		if err := json.Unmarshal(out, &m); err != nil {
			return nil, err
		}
		s.dirs[module] = m.Dir
	}
	return s, nil
}

// Required is the version of a module that this module requires.
func Required(module string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	return strings.TrimSpace(string(out)), err
}

// Dir is where a module is.
func (s *Sources) Dir(module string) string { return s.dirs[module] }

// Read gives the text itself.
func (s *Sources) Read(t Text) (string, error) {
	if t.Plain != nil {
		return *t.Plain, nil
	}
	if t.Path == "" {
		return "", nil
	}
	all, err := s.Texts(t.Module, t.Path)
	if err != nil {
		return "", err
	}
	n := max(t.Number, 1)
	if n > len(all) {
		return "", fmt.Errorf("%s has %d texts, want number %d", t.Path, len(all), n)
	}
	text := all[n-1]
	for _, a := range t.Args {
		at := verb.FindStringIndex(text)
		if at == nil {
			return "", fmt.Errorf("text %d of %s has no place for %q", n, t.Path, a)
		}
		// What was put in is not looked at again.
		done := text[:at[0]] + strings.ReplaceAll(a, "%", "\x00")
		text = done + text[at[1]:]
	}
	return strings.ReplaceAll(text, "\x00", "%"), nil
}

// Texts are all texts in a file: of a Go file its literals, of a Markdown file its blocks, of others the file.
func (s *Sources) Texts(module, path string) ([]string, error) {
	if module == "" {
		module = Buildx
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := module + "/" + path
	if all, ok := s.read[key]; ok {
		return all, nil
	}
	data, err := os.ReadFile(filepath.Join(s.dirs[module], path))
	if err != nil {
		return nil, err
	}
	all := []string{string(data)}
	switch filepath.Ext(path) {
	case ".go":
		all, err = literals(data)
	case ".md":
		all = blocks(string(data))
	}
	s.read[key] = all
	return all, err
}

func literals(data []byte) (all []string, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), "", data, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			text, unquoteErr := strconv.Unquote(l.Value)
			if unquoteErr != nil {
				err = unquoteErr
			}
			all = append(all, text)
		}
		return true
	})
	return all, err
}

var (
	fence = regexp.MustCompile("(?ms)^```([a-z]+)[^\n]*\n(.*?)^```$")
	verb  = regexp.MustCompile(`%[sqvdt]`)
)

func blocks(data string) (all []string) {
	for _, m := range fence.FindAllStringSubmatch(data, -1) {
		all = append(all, m[2])
	}
	return all
}

// Languages are those of the blocks of a Markdown file of buildx.
func (s *Sources) Languages(path string) (all []string, err error) {
	data, err := os.ReadFile(filepath.Join(s.dirs[Buildx], path))
	for _, m := range fence.FindAllStringSubmatch(string(data), -1) {
		all = append(all, m[1])
	}
	return all, err
}

// Find finds a text in files of buildx.
func (s *Sources) Find(text string, paths ...string) Text {
	if text == "" {
		return Text{Plain: &text}
	}
	for _, formatted := range []bool{false, true} {
		for _, p := range paths {
			all, err := s.Texts("", p)
			if err != nil {
				continue
			}
			for i, l := range all {
				if l == text {
					return Text{Path: p, Number: i + 1}
				}
				if !formatted || !verb.MatchString(l) || len(l) < 40 {
					continue
				}
				if args := match(l, text); args != nil {
					return Text{Path: p, Number: i + 1, Args: args}
				}
			}
		}
	}
	return Text{Plain: &text}
}

// match finds what was put in the place of a format's verbs.
func match(format, text string) []string {
	parts := verb.Split(format, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	m := regexp.MustCompile("(?s)^" + strings.Join(parts, "(.*?)") + "$").FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	return m[1:]
}
