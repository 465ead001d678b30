package advise

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
)

// moved are downloads that would do the same before a COPY, if some of its files were there.
type moved struct {
	ops       []*op
	do        []*downloading  // each of them
	named     map[string]bool // these files
	listed    []string        // directories of the COPY in which others are, too, which it is assumed that they mean nothing to who listed them
	elsewhere bool            // the working directory is another one after them than at the COPY
	own       string          // what is to be done instead, as something of the project is run or built with them; "" is nothing
}

// downloadsAfter are the downloads right after a COPY that would do the same without most of its files.
func (g *graph) downloadsAfter(c *copied) *moved {
	m := &moved{named: map[string]bool{}}
	for at := c.op; ; at = m.ops[len(m.ops)-1] {
		o, made := g.next(c, at)
		if o == nil {
			return m
		}
		d, named := g.needs(o, c)
		if d == nil {
			return m
		}
		maps.Copy(named, m.named)
		next := &moved{ops: append(slices.Clone(m.ops), o), do: append(slices.Clone(m.do), d), named: named, elsewhere: m.elsewhere || len(made) > 0}
		if !makeSame(c, made, named) || !g.stay(next, c) {
			return m
		}
		if next.own = m.own; next.own == "" {
			next.own = g.project(d, c, named)
		}
		m = next
	}
}

// next is the RUN that comes next in the stage of a COPY, with the directories that a WORKDIR before it makes; nil: it is something else.
func (g *graph) next(c *copied, at *op) (o *op, made []string) {
	for len(at.users) == 1 && at.users[0].input == 0 {
		o = at.users[0].by
		if o.node == nil || g.fromBetween(c.node.StartLine, o.node.StartLine) {
			return nil, nil
		}
		dirs, also := o.Makes()
		switch {
		case o.Operation() == "exec" && strings.EqualFold(o.node.Value, "RUN"):
			return o, made
		case o.Operation() != "file" || !strings.EqualFold(o.node.Value, "WORKDIR") || also || len(dirs) == 0:
			return nil, nil
		}
		made = append(made, dirs...)
		at = o
	}
	return nil, nil
}

// fromBetween reports whether a stage begins between two lines.
func (g *graph) fromBetween(first, last int) bool {
	for line, n := range g.nodes {
		if line > first && line < last && strings.EqualFold(n.Value, "FROM") {
			return true
		}
	}
	return first > last
}

// makeSame reports whether directories that are made after some files of a COPY alone are those that are made after all of it.
func makeSame(c *copied, made []string, named map[string]bool) bool {
	return !slices.ContainsFunc(made, func(dir string) bool {
		dir = path.Clean("/" + dir)
		if _, above := below(dir, c.to); above {
			return len(named) == 0 // the COPY makes it, as whose the COPY says
		}
		rel, in := below(c.to, dir)
		for ; in && rel != "."; rel = path.Dir(rel) {
			if c.files[rel] { // it may be a link
				return true
			}
		}
		return false
	})
}

// needs is what a RUN does if it is nothing but downloads of which enough is known, and the files of a COPY that they have opened or may have asked for.
func (g *graph) needs(o *op, c *copied) (*downloading, map[string]bool) {
	if o.node.Attributes["json"] || len(o.node.Heredocs) > 0 || o.node.Next == nil {
		return nil, nil
	}
	d := downloads(o.node.Next.Value)
	t := g.opened(o)
	if d == nil || !t.whole || slices.ContainsFunc(t.parts, func(p part) bool { return p.Input == 0 && p.At != "/" }) {
		return nil, nil
	}
	named, dirs := map[string]bool{}, map[string]bool{".": true}
	for _, e := range t.root() {
		if rel, ok := below(c.to, e.path); ok && c.files[rel] {
			named[rel] = true
			dirs[path.Dir(rel)] = true
		}
	}
	for _, i := range d.of {
		for dir := range dirs {
			for _, name := range i.looks {
				if rel := path.Join(dir, name); c.files[rel] {
					named[rel] = true
				}
			}
		}
	}
	return d, named
}

// stay reports whether each of some downloads finds and leaves the same where the files that are named are all there are. Directories that this is assumed of are added.
func (g *graph) stay(m *moved, c *copied) bool {
	for i, o := range m.ops {
		listed := g.listed(o, c, m.named)
		gone := slices.ContainsFunc(listed, func(rel string) bool { return rel != "." && !covered(rel, m.named) })
		if gone || len(listed) > 0 && !m.do[i].lists() || !m.do[i].goes(o, c, m.named) || !g.leaves(o, c, m.named) {
			return false
		}
		for _, rel := range listed {
			m.listed = append(m.listed, c.at(rel))
		}
	}
	slices.Sort(m.listed)
	m.listed = slices.Compact(m.listed)
	return true
}

// lists reports whether something of it lists directories to find its own files alone.
func (d *downloading) lists() bool {
	return slices.ContainsFunc(d.of, func(i invoked) bool { return i.tool.lists })
}

// goes reports whether the directories of a COPY that the shell goes into are there with the files that are named.
func (d *downloading) goes(o *op, c *copied, named map[string]bool) bool {
	at := path.Join("/", o.Directory())
	return !slices.ContainsFunc(d.into, func(dir string) bool {
		if at = path.Join(at, dir); path.IsAbs(dir) {
			at = path.Clean(dir)
		}
		rel, in := below(c.to, at)
		return in && rel != "." && !covered(rel, named)
	})
}

// listed are directories of a COPY that a step listed, in which there is something that is not named.
func (g *graph) listed(o *op, c *copied, named map[string]bool) (dirs []string) {
	for _, e := range g.opened(o).root() {
		rel, ok := below(c.to, e.path)
		if !ok || e.kind != filetrace.Listed || !c.dirs[rel] && rel != "." {
			continue
		}
		for _, all := range []map[string]bool{c.files, c.dirs} {
			for name := range all {
				if name != "." && path.Dir(name) == rel && !covered(name, named) {
					dirs = append(dirs, rel)
				}
			}
		}
	}
	return dirs
}

// leaves reports whether a step has changed no file of a COPY, and nothing in a directory of it that would not be there with the files that are named.
func (g *graph) leaves(o *op, c *copied, named map[string]bool) bool {
	touched, err := g.touched(o, c)
	if err != nil || len(touched) > 0 {
		return false
	}
	tree, err := g.built.Layer(o.Key)
	if err != nil {
		return false
	}
	for rel := range c.dirs {
		if rel == "." || covered(rel, named) {
			continue
		}
		if _, err := tree.Lstat(strings.TrimPrefix(c.at(rel), "/")); err == nil {
			return false
		}
	}
	return true
}

// covered reports whether a file is named, or something in a directory.
func covered(name string, named map[string]bool) bool {
	for n := range named {
		if n == name || strings.HasPrefix(n, name+"/") {
			return true
		}
	}
	return false
}

// linked reports whether what a COPY brings is not where it seems to be: a directory of it is a link, or a link of it leads to a file that is named.
func (g *graph) linked(c *copied, named map[string]bool) bool {
	tree, err := g.built.Layer(c.Key)
	if err != nil {
		return true
	}
	for rel := range c.files {
		e, err := tree.Lstat(strings.TrimPrefix(c.at(rel), "/"))
		if err != nil {
			return true
		}
		if e.IsSymlink() && g.leadsTo(c, e, named) {
			return true
		}
	}
	return false
}

// leadsTo reports whether a link, followed by its text alone, is on the way to a file that is named, or is named itself.
func (g *graph) leadsTo(c *copied, e *layer.Entry, named map[string]bool) bool {
	target := e.Link
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(e.Path), target)
	}
	target = path.Clean(target)
	for n := range named {
		if _, is := below(target, c.at(n)); is {
			return true
		}
	}
	return false
}
