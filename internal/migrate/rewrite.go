package migrate

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// nameStages gives each stage that is referred to a name of its own.
func (m *merger) nameStages() {
	for _, b := range m.used {
		m.reserve(m.files[b])
	}
	for _, b := range m.used {
		d := m.files[b]
		for i, s := range d.stages {
			if s.name == "" && (s == d.last() && b != m.script.Runtime() || m.numbered(d, i)) {
				s.name = nameOf(b)
				if s != d.last() {
					s.name = fmt.Sprintf("%s-%d", s.name, i)
				}
				s.name = m.free(s.name)
			} else if s.name != "" {
				old := s.name
				s.name = m.free(old)
			}
		}
	}
	if t := m.out.Target; t != "" {
		if s := m.files[m.script.Runtime()].last(); s.name != "" {
			m.out.Target = s.name
		}
	}
}

// reserve keeps the names of images that are no stages from being names of stages, which would take their place.
func (m *merger) reserve(d *dockerfile) {
	taken := func(name string, stages int) {
		if o, _ := m.elsewhere(d, name); name != "" && !strings.ContainsAny(name, "$/:") && d.find(name, stages) == nil && o == nil {
			m.names[strings.ToLower(name)] = true
		}
	}
	for i, s := range d.stages {
		if o := m.builtAs(d.build, d.expand(s.base)); o == nil {
			taken(d.expand(s.base), i)
		}
	}
	for _, n := range d.nodes {
		for _, from := range froms(n) {
			taken(from, len(d.stages))
		}
	}
	for _, e := range d.build.Files {
		if e.Build == nil {
			taken(e.Image, 0)
		}
	}
}

// froms are the stages and images that an instruction copies from, or mounts.
func froms(n *parser.Node) (all []string) {
	for _, f := range n.Flags {
		if name, ok := strings.CutPrefix(f, "--from="); ok {
			all = append(all, name)
		}
		if mount, ok := strings.CutPrefix(f, "--mount="); ok {
			for _, field := range strings.Split(mount, ",") {
				if name, ok := strings.CutPrefix(field, "from="); ok {
					all = append(all, name)
				}
			}
		}
	}
	return all
}

// free is a name that no stage has.
func (m *merger) free(name string) string {
	for n, try := 2, name; ; n++ {
		if key := strings.ToLower(try); !m.names[key] {
			m.names[key] = true
			return try
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}

// numbered reports whether a Dockerfile copies from a stage, or mounts it, by its number.
func (m *merger) numbered(d *dockerfile, i int) bool {
	return slices.ContainsFunc(d.nodes, func(n *parser.Node) bool { return slices.Contains(froms(n), fmt.Sprint(i)) })
}

// part is what is left of one Dockerfile, rewritten.
func (m *merger) part(b *Build) string {
	d := m.files[b]
	olds := map[string]*stage{} // stages by the names that they had
	stageNo := 0
	for _, n := range d.nodes {
		if len(m.bad) > 0 {
			return ""
		}
		switch {
		case strings.EqualFold(n.Value, "FROM"):
			s := d.stages[stageNo]
			stageNo++
			m.from(d, n, s, olds)
		case stageNo == 0: // an argument of all stages
			m.hoist(d, n)
		default:
			m.refer(d, n, olds)
			if isCopy(n) && flagOf(n, "from") == "" && len(n.Heredocs) == 0 {
				m.copies(d, n)
			}
		}
	}
	text := d.text()
	return fmt.Sprintf("# %s, of %s:%d\n", b.File, m.script.Name, b.Line) + strings.Join(m.before[b], "") + text
}

// ran is the stage of what a container has after its command, made of that of its image.
func (m *merger) ran(b *Build, from string, e *Extract) string {
	key := from + "\n" + strings.Join(e.Runs, "\n")
	if m.extra[key] == "" {
		m.extra[key] = m.free(strings.Map(func(r rune) rune {
			if strings.ContainsRune(":/@", r) {
				return '-'
			}
			return r
		}, from) + "-run")
		m.before[b] = append(m.before[b], fmt.Sprintf("FROM %s AS %s\n%s\n\n", from, m.extra[key], strings.Join(e.Runs, "\n")))
	}
	return m.extra[key]
}

// onHost reports whether a source is a directory of the user's own, in which there is more than what came from containers.
func (m *merger) onHost(d *dockerfile, source string) bool {
	clean := cleanSource(d, source)
	if path.Join(d.build.Context, clean) == "." {
		return true
	}
	if isPattern(clean) {
		all, err := filepath.Glob(filepath.Join(m.script.Dir, d.build.Context, clean))
		return err == nil && slices.ContainsFunc(all, func(name string) bool {
			rel, err := filepath.Rel(filepath.Join(m.script.Dir, d.build.Context), name)
			return err == nil && m.hasMore(d, path.Join(d.build.Context, filepath.ToSlash(rel)))
		})
	}
	return m.hasMore(d, path.Join(d.build.Context, clean))
}

// hasMore reports whether a file or directory has more than what came from containers.
func (m *merger) hasMore(d *dockerfile, name string) (more bool) {
	_ = filepath.WalkDir(filepath.Join(m.script.Dir, name), func(at string, e fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(m.script.Dir, at)
		if err != nil || rerr != nil || e.IsDir() {
			return rerr // what cannot be read, COPY cannot either
		}
		if more = !slices.ContainsFunc(d.build.Files, func(f *Extract) bool { return strings.HasPrefix(rel, f.To+"/") || rel == f.To }); more {
			return fs.SkipAll
		}
		return nil
	})
	return more
}

// from rewrites the beginning of a stage.
func (m *merger) from(d *dockerfile, n *parser.Node, s *stage, olds map[string]*stage) {
	words := wordsOf(n)
	base, changed := s.base, false
	if o := olds[strings.ToLower(base)]; o != nil {
		base = o.name
	} else if o := m.builtAs(d.build, d.expand(base)); o != nil && slices.Contains(m.used, o) {
		base = m.files[o].last().name
	} else if of := m.called(d.build, d.expand(base)); of != d.expand(base) {
		base = of
	}
	changed = base != s.base
	old := ""
	if len(words) == 3 {
		old = words[2]
		olds[strings.ToLower(old)] = s
	}
	if !changed && old == s.name {
		return
	}
	parts := append([]string{"FROM"}, n.Flags...)
	parts = append(parts, base)
	if s.name != "" {
		parts = append(parts, "AS", s.name)
	}
	d.set(n, strings.Join(parts, " "))
}

// hoist moves an argument of all stages to the beginning.
func (m *merger) hoist(d *dockerfile, n *parser.Node) {
	text := d.original(n)
	name := argOf(n)
	for _, h := range m.heads {
		if h == text {
			d.set(n, "")
			return
		}
		if f := strings.Fields(h); name != "" && len(f) > 1 && strings.SplitN(f[1], "=", 2)[0] == name {
			m.problemAt(d, n, "the argument %s has another default in another Dockerfile: %s", name, h)
		}
	}
	for _, b := range m.used {
		if o := m.files[b]; o != d && name != "" && o.takes(name) && !slices.ContainsFunc(b.Args, func(a Arg) bool { return a.Name == name }) {
			m.problemAt(d, n, "the argument %s would have this value in %s, too, where it has none", name, b.File)
		}
	}
	if text != removedLine {
		m.heads = append(m.heads, text)
	}
	d.set(n, "")
}

// takes reports whether a stage takes an argument of all stages, and there is none before them.
func (d *dockerfile) takes(name string) bool {
	takes := false
	for _, n := range d.nodes {
		if argOf(n) != name {
			continue
		}
		if n.StartLine < d.stages[0].node.StartLine {
			return false
		}
		takes = takes || !strings.Contains(wordsOf(n)[0], "=")
	}
	return takes
}

// refer rewrites what an instruction says of stages.
func (m *merger) refer(d *dockerfile, n *parser.Node, olds map[string]*stage) {
	rename := func(name string) string {
		if s := olds[strings.ToLower(name)]; s != nil {
			return s.name
		}
		if s := d.find(name, len(d.stages)); s != nil && s.name != "" && isNumber(name) {
			return s.name
		}
		if b, s := m.elsewhere(d, name); s != nil && slices.Contains(m.used, b) {
			if m.builtAs(d.build, name) == nil {
				m.out.Notes = append(m.out.Notes, Problem{d.build.File, n.StartLine, fmt.Sprintf("%q is taken for the stage of %s, which has that name", name, b.File)})
			}
			return s.name
		}
		return m.called(d.build, name)
	}
	text := d.original(n)
	for _, f := range n.Flags {
		if name, ok := strings.CutPrefix(f, "--from="); ok {
			text = strings.Replace(text, f, "--from="+rename(name), 1)
		}
		if !strings.HasPrefix(f, "--mount=") {
			continue
		}
		fields := strings.Split(strings.TrimPrefix(f, "--mount="), ",")
		for i, field := range fields {
			if name, ok := strings.CutPrefix(field, "from="); ok {
				fields[i] = "from=" + rename(name)
			}
		}
		text = strings.Replace(text, f, "--mount="+strings.Join(fields, ","), 1)
	}
	if text != d.original(n) {
		d.set(n, text)
	}
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// match is how a source of a COPY has something of a container: below is what of it the source is, and under where it is below the source.
// several says that the source is a pattern which may mean other things than that, too.
type match struct {
	source, below, under string
	several              bool
}

// matches tells how the sources of a COPY have something that came from a container.
func (m *merger) matches(d *dockerfile, n *parser.Node, e *Extract) (all []match) {
	rel, ok := m.inContext(d, e)
	if !ok || !isCopy(n) || flagOf(n, "from") != "" || len(n.Heredocs) > 0 {
		return nil
	}
	words := wordsOf(n)
	for _, src := range words[:max(len(words)-1, 0)] {
		if found, ok := matchOf(src, cleanSource(d, src), rel); ok {
			all = append(all, found)
		}
	}
	return all
}

// cleanSource is a source of a COPY as a path in the context.
func cleanSource(d *dockerfile, src string) string {
	return path.Clean(strings.TrimPrefix(d.expand(src), "/"))
}

// matchOf tells how a source, which may be a pattern, has what is at a path.
func matchOf(src, clean, rel string) (match, bool) {
	if clean == "." {
		return match{source: src, under: rel}, true
	}
	pattern, at := strings.Split(clean, "/"), strings.Split(rel, "/")
	n := min(len(pattern), len(at))
	if ok, _ := path.Match(strings.Join(pattern[:n], "/"), strings.Join(at[:n], "/")); !ok {
		return match{}, false
	}
	several := isPattern(strings.Join(pattern[:n], "/"))
	return match{source: src, below: strings.Join(pattern[n:], "/"), under: strings.Join(at[n:], "/"), several: several}, true
}

// isPattern reports whether a source may mean several names.
func isPattern(src string) bool { return strings.ContainsAny(src, "*?[") }

// copies rewrites a COPY of the context some of which comes from containers.
func (m *merger) copies(d *dockerfile, n *parser.Node) {
	words := wordsOf(n)
	if len(words) < 2 {
		return
	}
	var lines []string
	dest, whole := words[len(words)-1], words[:len(words)-1]
	kept := slices.Clone(whole)
	for _, e := range d.build.Files {
		for _, match := range m.matches(d, n, e) {
			if match.under != "" && m.ignored(d, e) {
				continue
			}
			if strings.EqualFold(n.Value, "ADD") && isArchive(e.To) {
				m.problemAt(d, n, "ADD unpacks %s, which comes from a container: copy the archive, and unpack it in a RUN", e.To)
				return
			}
			if match.several && match.below != "" {
				m.problemAt(d, n, "which files of containers %s means is not followed: name them", match.source)
				return
			}
			if flag := strange(n); flag != "" {
				m.problemAt(d, n, "%s is not followed where something comes from a container: name what is to be copied", flag)
				return
			}
			if match.under == "" && !match.several {
				kept = slices.DeleteFunc(kept, func(s string) bool { return s == match.source })
			} else if !m.onHost(d, match.source) {
				kept = slices.DeleteFunc(kept, func(s string) bool { return s == match.source })
			}
			lines = append(lines, m.copyFrom(d, n, e, match, dest, len(whole) > 1))
		}
	}
	if len(lines) == 0 {
		return
	}
	if len(kept) > 0 {
		lines = append([]string{copyLine(strings.ToUpper(n.Value), n.Flags, append(kept, asDir(dest, len(whole) > 1)))}, lines...)
	}
	d.set(n, strings.Join(lines, "\n"))
}

// strange is a flag by which a COPY means other files, or puts them elsewhere; "": it has none.
func strange(n *parser.Node) string {
	for _, f := range n.Flags {
		name, _, _ := strings.Cut(f, "=")
		if slices.Contains([]string{"--parents", "--exclude", "--checksum", "--keep-git-dir", "--unpack"}, name) {
			return name
		}
	}
	return ""
}

// ignored reports whether .dockerignore keeps something of a container out of a context.
func (m *merger) ignored(d *dockerfile, e *Extract) bool {
	rel, _ := m.inContext(d, e)
	for _, name := range []string{d.build.File + ".dockerignore", path.Join(d.build.Context, ".dockerignore")} {
		f, err := os.Open(filepath.Join(m.script.Dir, name))
		if err != nil {
			continue
		}
		defer f.Close()
		patterns, err := ignorefile.ReadAll(f)
		if err != nil {
			return false // the build says so
		}
		out, err := patternmatcher.MatchesOrParentMatches(rel, patterns)
		return err == nil && out
	}
	return false
}

func asDir(dest string, is bool) string {
	if is && !strings.HasSuffix(dest, "/") && dest != "." {
		return dest + "/"
	}
	return dest
}

func isArchive(name string) bool {
	return slices.ContainsFunc([]string{".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".txz"}, func(s string) bool { return strings.HasSuffix(name, s) })
}

// copyFrom is the COPY of one thing from the stage that it is in.
func (m *merger) copyFrom(d *dockerfile, n *parser.Node, e *Extract, match match, dest string, several bool) string {
	from := e.Image
	if e.Build != nil {
		from = m.files[e.Build].last().name
	}
	if len(e.Runs) > 0 {
		from = m.ran(d.build, from, e)
	}
	src := path.Join(e.Path, match.below)
	dir := e.Contents && match.below == "" || m.opt.IsDir != nil && m.opt.IsDir(e.Build, e.Image, src)
	rel, _ := m.inContext(d, e)
	intoDir := several || strings.HasSuffix(dest, "/") || dest == "." || strings.HasSuffix(dest, "/.")
	if match.under != "" && m.opt.IsLink != nil && m.opt.IsLink(e.Build, e.Image, src) && !e.Follow {
		m.bad = append(m.bad, Problem{m.script.Name, e.Line, src + " is a symbolic link, which stays one in a directory, and which COPY --from follows: make the link by a RUN (ln -s), or copy the directory that it is in"})
	}
	switch {
	case match.under != "":
		dest = path.Join(dest, match.under) // below a directory whose contents are copied
		if dir {
			dest += "/"
		}
	case !dir && intoDir && match.below == "" && path.Base(src) != path.Base(rel):
		dest = path.Join(dest, path.Base(rel))
	case intoDir:
		dest = asDir(dest, several)
	}
	flags := append([]string{"--from=" + from}, n.Flags...)
	if m.opt.Root && flagOf(n, "chown") == "" {
		flags = append(flags, "--chown=0:0")
	}
	return copyLine("COPY", flags, []string{src, dest})
}
