package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Options are what only the images tell, of which a merge can do without.
type Options struct {
	// IsDir tells whether a path of an image is a directory; nil: whatever comes from containers is taken for files.
	IsDir func(b *Build, image, path string) bool
	// IsLink tells whether it is a symbolic link; nil: nothing is taken for one.
	IsLink func(b *Build, image, path string) bool
	// Root has the files that come from containers belong to root, as those of a context do.
	Root bool
}

// Merged is one Dockerfile for all that a script builds.
type Merged struct {
	Text     string
	Context  string // relative to the script
	Target   string
	Platform string
	Args     []Arg // to be given to the build
	Notes    []Problem
}

// merger puts Dockerfiles together.
type merger struct {
	script *Script
	opt    Options
	files  map[*Build]*dockerfile
	used   []*Build // in the order in which the script builds them
	names  map[string]bool
	extra  map[string]string   // stages for what ran in containers: by their text, their names
	before map[*Build][]string // those stages, by who copies from them first
	heads  []string            // ARGs of all stages
	out    Merged
	bad    Problems
}

// Merge makes one Dockerfile of what a script builds. What cannot be is an error of the type [Problems].
func (s *Script) Merge(opt Options) (*Merged, error) {
	m := &merger{script: s, opt: opt, files: map[*Build]*dockerfile{}, names: map[string]bool{}, extra: map[string]string{}, before: map[*Build][]string{}}
	m.out.Notes = slices.Clone(s.Notes)
	for _, b := range s.Builds {
		d, err := parseDockerfile(b)
		if err != nil {
			return nil, Problems{{s.Name, b.Line, err.Error()}}
		}
		m.files[b] = d
	}
	m.need(s.Runtime())
	if len(m.used) == 1 {
		m.problem(s.Runtime(), "%s is built of nothing that comes out of containers: there is nothing to put together", s.Runtime().name())
	}
	for _, b := range s.Builds {
		if !slices.Contains(m.used, b) {
			m.out.Notes = append(m.out.Notes, Problem{s.Name, b.Line, b.name() + " is left out: the last image needs nothing of it"})
		}
	}
	m.unused()
	m.triggers()
	if len(m.bad) == 0 {
		m.context()
		m.arguments()
		m.nameStages()
	}
	var parts []string
	for _, b := range m.used {
		if len(m.bad) == 0 {
			parts = append(parts, m.part(b))
		}
	}
	if len(m.bad) == 0 {
		m.finish(parts)
	}
	if len(m.bad) > 0 {
		return nil, m.bad
	}
	return &m.out, nil
}

// triggers tells of instructions that are carried out when another stage begins.
func (m *merger) triggers() {
	for _, b := range m.used {
		for _, n := range m.files[b].nodes {
			if strings.EqualFold(n.Value, "ONBUILD") {
				m.problemAt(m.files[b], n, "ONBUILD is not followed: write the instruction where it is carried out")
			}
		}
	}
}

// unused tells of files that nothing is built with.
func (m *merger) unused() {
	told := map[*Extract]bool{}
	for _, b := range m.used {
		m.written(b)
		for _, e := range b.Files {
			used := slices.ContainsFunc(m.used, func(o *Build) bool {
				return slices.Contains(o.Files, e) && slices.ContainsFunc(m.files[o].nodes, func(n *parser.Node) bool { return len(m.matches(m.files[o], n, e)) > 0 })
			})
			if !used && !told[e] && !e.copied {
				told[e] = true
				m.out.Notes = append(m.out.Notes, Problem{m.script.Name, e.Line, e.To + " is not used by what is built after it"})
			}
		}
	}
}

// written tells of files that the script writes, which COPY names.
func (m *merger) written(b *Build) {
	for _, w := range b.Written {
		for _, n := range m.files[b].nodes {
			for _, match := range m.matches(m.files[b], n, &Extract{To: w.Path}) {
				p := Problem{m.script.Name, w.Line, w.Path + " is written by the script, and not by the new Dockerfile: have it there when you build, or write it by a RUN"}
				if match.under == "" && !slices.Contains(m.out.Notes, p) {
					m.out.Notes = append(m.out.Notes, p)
				}
			}
		}
	}
}

func (m *merger) problem(b *Build, format string, args ...any) {
	m.bad = append(m.bad, Problem{m.script.Name, b.Line, fmt.Sprintf(format, args...)})
}

func (m *merger) problemAt(d *dockerfile, n *parser.Node, format string, args ...any) {
	m.bad = append(m.bad, Problem{d.build.File, n.StartLine, fmt.Sprintf(format, args...)})
}

// need notes the builds that one needs, and itself.
func (m *merger) need(b *Build) {
	if slices.Contains(m.used, b) {
		return
	}
	d := m.files[b]
	for i, s := range d.stages {
		if o := m.builtAs(b, d.expand(s.base)); o != nil && d.find(s.base, i) == nil {
			m.need(o)
		}
	}
	for _, n := range d.nodes {
		for _, from := range froms(n) {
			if d.find(from, len(d.stages)) != nil {
				continue
			}
			if o, _ := m.elsewhere(d, from); o != nil {
				m.need(o)
			}
		}
		for _, e := range b.Files {
			if e.Build != nil && len(m.matches(d, n, e)) > 0 {
				m.need(e.Build)
			}
		}
	}
	m.used = append(m.used, b)
	slices.SortStableFunc(m.used, func(x, y *Build) int { return m.index(x) - m.index(y) })
}

// index says when the script carries out a build.
func (m *merger) index(b *Build) int { return slices.Index(m.script.Builds, b) }

// builtAs is the build that has a name when another one is carried out.
func (m *merger) builtAs(by *Build, name string) *Build { return by.Built[plainName(name)] }

// called is the image that a name stands for when a build is carried out, which the script does not build.
func (m *merger) called(by *Build, name string) string {
	if of := by.Foreign[plainName(name)]; of != "" {
		return of
	}
	return name
}

// elsewhere finds a stage that a Dockerfile copies from and does not have: an image that the script builds, or a stage of another Dockerfile.
func (m *merger) elsewhere(d *dockerfile, name string) (*Build, *stage) {
	if b := m.builtAs(d.build, name); b != nil {
		return b, m.files[b].last()
	}
	for _, b := range slices.Backward(m.script.Builds[:m.index(d.build)]) {
		if o := m.files[b]; b != d.build {
			if s := o.find(name, len(o.stages)); s != nil {
				return b, s
			}
		}
	}
	return nil, nil
}

func flagOf(n *parser.Node, name string) string {
	for _, f := range n.Flags {
		if v, ok := strings.CutPrefix(f, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

// context decides on the directory that all are built from.
func (m *merger) context() {
	m.out.Context = m.script.Runtime().Context
	var of []*Build
	for _, b := range m.used {
		if m.reads(m.files[b]) {
			of = append(of, b)
		}
	}
	for _, b := range of {
		if b.Context != of[0].Context {
			m.problem(b, "%s is built from %s, and %s from %s: one Dockerfile has one context; put both under it, and change the sources of COPY", of[0].name(), of[0].Context, b.name(), b.Context)
			return
		}
	}
	if len(of) > 0 {
		m.out.Context = of[0].Context
	}
}

// reads reports whether a Dockerfile needs files of its context that are not from containers.
func (m *merger) reads(d *dockerfile) bool {
	return slices.ContainsFunc(d.nodes, func(n *parser.Node) bool {
		if !isCopy(n) || flagOf(n, "from") != "" || len(n.Heredocs) > 0 {
			return slices.ContainsFunc(n.Flags, func(f string) bool {
				return strings.HasPrefix(f, "--mount=") && strings.Contains(f, "type=bind") && !strings.Contains(f, "from=")
			})
		}
		words := wordsOf(n)
		return slices.ContainsFunc(words[:max(len(words)-1, 0)], func(src string) bool {
			return !strings.Contains(src, "://") && (m.onHost(d, src) || !slices.ContainsFunc(d.build.Files, func(e *Extract) bool {
				rel, ok := m.inContext(d, e)
				found, is := matchOf(src, cleanSource(d, src), rel)
				return ok && is && found.under == ""
			}))
		})
	})
}

func isCopy(n *parser.Node) bool {
	return strings.EqualFold(n.Value, "COPY") || strings.EqualFold(n.Value, "ADD")
}

// inContext is where a file of a container is in the context of a build.
func (m *merger) inContext(d *dockerfile, e *Extract) (string, bool) {
	if d.build.Context == "." {
		return e.To, !strings.HasPrefix(e.To, "/") && !strings.HasPrefix(e.To, "../")
	}
	return strings.CutPrefix(e.To, d.build.Context+"/")
}

// platforms and arguments: what all agree about is given to the build.
func (m *merger) arguments() {
	m.out.Platform, m.out.Target = m.script.Runtime().Platform, m.script.Runtime().Target
	for _, b := range m.used {
		if b.Platform != m.out.Platform {
			m.problem(b, "it is built for another platform than %s: write FROM --platform", m.script.Runtime().name())
		}
	}
	given := map[string]string{}
	for _, b := range m.used {
		for _, a := range b.Args {
			value, had := given[a.Name]
			if !had && m.others(b, a) {
				given[a.Name] = a.Value
				m.out.Args = append(m.out.Args, a)
			} else if !had || value != a.Value {
				m.fix(b, a)
			}
		}
	}
}

// others reports whether all other Dockerfiles that know an argument are given the same.
func (m *merger) others(b *Build, a Arg) bool {
	return !slices.ContainsFunc(m.used, func(o *Build) bool {
		return o != b && m.files[o].declares(a.Name) && !slices.Contains(o.Args, a)
	})
}

func (d *dockerfile) declares(name string) bool {
	return slices.ContainsFunc(d.nodes, func(n *parser.Node) bool { return argOf(n) == name })
}

// argOf is the name of the one argument that an instruction declares, or "".
func argOf(n *parser.Node) string {
	if words := wordsOf(n); strings.EqualFold(n.Value, "ARG") && len(words) == 1 {
		name, _, _ := strings.Cut(words[0], "=")
		return name
	}
	return ""
}

// fix makes the value that one build is given the default of its own stages.
func (m *merger) fix(b *Build, a Arg) {
	d := m.files[b]
	for _, n := range d.nodes {
		switch {
		case argOf(n) != a.Name:
		case n.StartLine < d.stages[0].node.StartLine:
			m.problemAt(d, n, "the argument %s is %q for one image and something else for another one, and stands before all stages", a.Name, a.Value)
		case unknown(a.Value) || strings.ContainsAny(a.Value, "\n\\"):
			m.problemAt(d, n, "the argument %s is %q for one image and something else for another one", a.Name, a.Value)
		default:
			d.set(n, "ARG "+a.Name+"="+strings.ReplaceAll(quote(a.Value), "$", `\$`))
		}
	}
}

// finish puts the parts together.
func (m *merger) finish(parts []string) {
	var head strings.Builder
	syntax, escape := "", ""
	for i, b := range m.used {
		d := m.files[b]
		if d.syntax != "" && syntax != "" && d.syntax != syntax {
			m.out.Notes = append(m.out.Notes, Problem{b.File, 1, "the syntax " + d.syntax + " is left out: another file has " + syntax})
		}
		if syntax == "" {
			syntax = d.syntax
		}
		if i > 0 && d.escape != escape {
			m.bad = append(m.bad, Problem{b.File, 1, "its lines are continued by another character than those of the other file: change them"})
		}
		escape = d.escape
	}
	if syntax != "" {
		head.WriteString("# syntax=" + syntax + "\n")
	}
	if escape != "" {
		head.WriteString("# escape=" + escape + "\n")
	}
	for _, arg := range m.heads {
		head.WriteString(arg + "\n")
	}
	if head.Len() > 0 {
		head.WriteString("\n")
	}
	m.out.Text = head.String() + strings.Join(parts, "\n")
}
