package advise

import (
	"path"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/reasons"
)

// trace is what a step opened; it is read once.
type trace struct {
	whole bool // that is all of it, and it is known where it was
	parts []part
}

// part is what a step opened of its root filesystem, or of what a mount showed: by the paths in what is mounted.
type part struct {
	reasons.Mounted
	paths []entry
}

type entry struct {
	kind filetrace.Kind
	path string
}

// root is what was opened of the root filesystem.
func (t *trace) root() []entry {
	for _, p := range t.parts {
		if p.At == "/" {
			return p.paths
		}
	}
	return nil
}

// opened reads what an op has opened. What cannot be read is not known.
func (g *graph) opened(o *op) *trace {
	if o.trace != nil {
		return o.trace
	}
	mounts, known := o.Mounts()
	t := &trace{}
	o.trace = t
	for _, m := range mounts {
		if !path.IsAbs(m.At) {
			m.At = path.Join("/", o.Directory(), m.At)
		}
		m.At = path.Clean(m.At)
		known = known && !slices.ContainsFunc(t.parts, func(p part) bool { return p.At == m.At }) // one hides the other
		t.parts = append(t.parts, part{Mounted: m})
	}
	sum, err := g.built.Opened(o.Key, func(k filetrace.Kind, name string) error {
		t.add(k, path.Clean(name))
		return nil
	})
	t.whole = known && err == nil && sum.Whole() && (sum.Mounts || !slices.ContainsFunc(t.parts, func(p part) bool { return p.Type == bindMount && p.At != "/" }))
	return t
}

// bindMount is the type of a mount that shows files of an input.
const bindMount = "BIND"

// add adds a path to the innermost mount that it is in.
func (t *trace) add(k filetrace.Kind, name string) {
	in, rest := -1, ""
	for i := range t.parts {
		if rel, is := below(t.parts[i].At, name); is && (in < 0 || len(t.parts[i].At) > len(t.parts[in].At)) {
			in, rest = i, rel
		}
	}
	if in >= 0 {
		t.parts[in].paths = append(t.parts[in].paths, entry{k, path.Join("/", t.parts[in].Selector, rest)})
	}
}

// openedOf gives what an op has opened of one of its inputs, by the paths in that. known: it is that, and all. A mount in which nothing was opened may have been somewhere
// else, where a link has led to; so may what it shows, unless the files say that it is in the input.
func (g *graph) openedOf(o *op, input int) (all []entry, known bool) {
	t := g.opened(o)
	if !t.whole {
		return nil, false
	}
	for _, p := range t.parts {
		switch {
		case p.Input != input:
		case p.Type != bindMount || p.At != "/" && (len(p.paths) == 0 || !g.shows(o, p)):
			return nil, false
		default:
			all = append(all, p.paths...)
		}
	}
	return all, true
}

// shows reports whether what a mount shows is where it says, in its input, and no link leads there.
func (g *graph) shows(o *op, p part) bool {
	selector := strings.TrimPrefix(path.Clean("/"+p.Selector), "/")
	if selector == "" {
		return true
	}
	found := false
	for _, name := range g.namesOf(o, p.Input) {
		name, dir := strings.CutSuffix(name, "/")
		_, in := below(selector, name)
		if _, above := below(name, selector); !in && !(above && dir) { // where a link leads to
			return false
		}
		found = found || in
	}
	return found
}

// namesOf are the names of what an op reads of one of its inputs, as a list of files has them; nil: they are not known.
func (g *graph) namesOf(o *op, input int) []string {
	list := g.built.Lists[o.FilesOf(input)]
	if list == nil {
		return nil
	}
	names, err := list.Names()
	if err != nil {
		return nil
	}
	return names
}
