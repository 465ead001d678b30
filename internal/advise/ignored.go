package advise

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/filetrace"
)

// IgnoreFile is the one that says which files of the context are none.
type IgnoreFile struct {
	Name string // as patches have it
	Text string
	New  bool // there is none yet
}

// maxIgnored is how many lines are added to it.
const maxIgnored = 20

// sentForNothing are files that a COPY brings into a stage, or a RUN mounts, which nothing looks at and that do not get into the image.
func sentForNothing(d *dockerfile) []Finding {
	g := d.built
	if g == nil || !g.allInstructions() {
		return nil
	}
	var first *op
	used, all := map[string]bool{}, map[string]bool{}
	for _, o := range g.ops {
		if !g.ofContext(o) {
			continue
		}
		names, unused := g.sent(o)
		if names == nil {
			return nil
		}
		if first == nil && len(unused) > 0 && o.node != nil {
			first = o
		}
		for name := range names {
			all[name] = true
			used[name] = used[name] || !unused[name]
		}
	}
	if first == nil {
		return nil
	}
	lines, n, bytes := g.grouped(all, used)
	if len(lines) == 0 {
		return nil
	}
	f := finding("unused-context", first.instruction(), bytes)
	f.Context = true
	f.What = fmt.Sprintf("%s of the context are copied or mounted, no RUN opened them, and the image does not have them; each change of one has the steps after this run again", files(n))
	f.Change = fmt.Sprintf("lines in %s: %s", d.ignore.Name, strings.Join(lines, " "))
	if g.built.Shared && !strings.HasPrefix(path.Base(d.ignore.Name), path.Base(d.name)) {
		f.Change = fmt.Sprintf("lines in %s.dockerignore, as other Dockerfiles are built with this context: %s", d.name, strings.Join(lines, " "))
		return []Finding{f}
	}
	f.ignore = lines
	return []Finding{f}
}

// ofContext reports whether a step has the build context as an input.
func (g *graph) ofContext(o *op) bool {
	return slices.ContainsFunc(o.Inputs, func(in int) bool { return in >= 0 && g.ops[in].Name == contextName })
}

// allInstructions reports whether the graph has all instructions that read the context: those of other targets are in none.
func (g *graph) allInstructions() bool {
	lines := map[int]bool{}
	for _, o := range g.ops {
		lines[o.Line] = true
	}
	for line, n := range g.nodes {
		word := strings.ToUpper(n.Value)
		reads := (word == "COPY" || word == "ADD") && !slices.ContainsFunc(n.Flags, func(f string) bool { return strings.HasPrefix(f, "--from=") }) ||
			word == "RUN" && slices.ContainsFunc(n.Flags, func(f string) bool {
				return strings.HasPrefix(f, "--mount=") && !strings.Contains(f, "type=") || strings.Contains(f, "type=bind")
			}) ||
			word == "ONBUILD"
		if reads && !lines[line] {
			return false
		}
	}
	return true
}

// sent are the files of the context that a step reads, by their names in it, and those of them that are of no use there; nil: it is not known.
func (g *graph) sent(o *op) (names, unused map[string]bool) {
	names, unused = map[string]bool{}, map[string]bool{}
	c := g.copied(o)
	switch {
	case c != nil:
		left := maps.Clone(c.files)
		if !g.usedAfter(c.op, c, left, map[*op]bool{}) {
			left = nil
		}
		for rel := range c.files {
			name := path.Join(c.from, rel)
			names[name] = true
			if left[rel] {
				unused[name] = true
			}
		}
		return names, unused
	case o.Operation() == "exec":
		return g.mounted(o)
	case o.Operation() != "file" || len(o.Inputs) != 2:
		return nil, nil
	}
	read := g.namesOf(o, 1)
	if read == nil {
		return nil, nil
	}
	for _, name := range read {
		names[name] = true
	}
	return names, unused
}

// mounted are the files of the context that a RUN mounts, and those of them that it did not open; nil: it is not known.
func (g *graph) mounted(o *op) (names, unused map[string]bool) {
	names, unused = map[string]bool{}, map[string]bool{}
	for input, in := range o.Inputs {
		if in < 0 || g.ops[in].Name != contextName {
			continue
		}
		shown, opened := g.namesOf(o, input), map[string]bool{}
		if shown == nil {
			return nil, nil
		}
		all, known := g.openedOf(o, input)
		for _, e := range all {
			if e.kind != filetrace.Listed {
				opened[strings.TrimPrefix(e.path, "/")] = true
			}
		}
		for _, name := range shown {
			if strings.HasSuffix(name, "/") {
				continue
			}
			names[name] = true
			if known && !opened[name] {
				unused[name] = true
			} else {
				delete(unused, name)
			}
		}
	}
	return names, unused
}

// usedAfter takes from left what is used of a COPY by what comes after an op. It reports whether that is known.
func (g *graph) usedAfter(at *op, c *copied, left map[string]bool, seen map[*op]bool) bool {
	if seen[at] {
		return true
	}
	seen[at] = true
	if len(at.users) == 0 {
		return false // it is the result, or that of another platform
	}
	for _, u := range at.users {
		switch {
		case u.by.Operation() == "exec":
			if !g.usedBy(u, c, left) || u.input == 0 && !g.usedAfter(u.by, c, left, seen) {
				return false
			}
		case u.by.Operation() == "file" && u.input == 0:
			if !g.usedAfter(u.by, c, left, seen) {
				return false
			}
		case u.by.Operation() == "file" && u.input == 1:
			if !g.copiedOn(u.by, c, left) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// usedBy takes from left what a step has opened or changed of an input.
func (g *graph) usedBy(u use, c *copied, left map[string]bool) bool {
	all, known := g.openedOf(u.by, u.input)
	if !known {
		return false
	}
	for _, e := range all {
		if rel, ok := below(c.to, e.path); ok && e.kind != filetrace.Listed {
			delete(left, rel)
		}
	}
	if u.input != 0 { // what a mount shows is as before afterwards
		return true
	}
	touched, err := g.touched(u.by, c)
	for rel := range touched {
		delete(left, rel)
	}
	return err == nil
}

// copiedOn takes from left what a COPY of a stage copies.
func (g *graph) copiedOn(o *op, c *copied, left map[string]bool) bool {
	copies, _ := o.Copies()
	if list := g.built.Lists[o.FilesOf(1)]; list != nil { // where links have led to
		names, err := list.Names()
		if err != nil {
			return false
		}
		for _, name := range names {
			if rel, ok := below(c.to, path.Join("/", name)); ok {
				delete(left, rel)
			}
		}
	}
	for _, from := range copies {
		if from.From == "" || strings.ContainsAny(from.From, `*?[\`) {
			return false
		}
		for rel := range c.files {
			at := c.at(rel)
			if _, is := below(path.Clean("/"+from.From), at); is {
				delete(left, rel)
			}
		}
	}
	return len(copies) > 0
}

// grouped are the lines that leave unused files out, the largest first, with how many files and bytes these are. A directory is one line if nothing in it is used.
func (g *graph) grouped(all, used map[string]bool) (lines []string, n int, bytes int64) {
	inUse := map[string]bool{} // directories with something that is used
	for name := range all {
		_, there := g.built.Size(name)
		if used[name] || !there || !plainPattern(name) || isDockerfile(name) {
			for dir := name; dir != "."; dir = path.Dir(dir) {
				inUse[dir] = true
			}
		}
	}
	type group struct {
		files int
		bytes int64
	}
	groups := map[string]*group{}
	for name := range all {
		if inUse[name] {
			continue
		}
		top := name
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if !inUse[dir] {
				top = dir
			}
		}
		if groups[top] == nil {
			groups[top] = &group{}
		}
		size, _ := g.built.Size(name)
		groups[top].files++
		groups[top].bytes += size
	}
	lines = slices.SortedFunc(maps.Keys(groups), func(a, b string) int {
		if d := groups[b].bytes - groups[a].bytes; d != 0 {
			return int(max(min(d, 1), -1))
		}
		return strings.Compare(a, b)
	})
	lines = lines[:min(len(lines), maxIgnored)]
	for _, l := range lines {
		n += groups[l].files
		bytes += groups[l].bytes
	}
	return lines, n, bytes
}

// plainPattern reports whether a name is a pattern that stands for itself alone.
func plainPattern(name string) bool {
	return !strings.ContainsAny(name, "*?[]\\\n\r!#") && strings.TrimSpace(name) == name
}

// isDockerfile reports whether a file says how images are built: who looks for such a file is not always the build.
func isDockerfile(name string) bool {
	base := strings.ToLower(path.Base(name))
	return strings.HasSuffix(base, ".dockerignore") || strings.HasSuffix(base, "dockerfile") || strings.HasPrefix(base, "dockerfile.")
}
