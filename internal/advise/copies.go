package advise

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
)

// maxNamed is how many files are copied first at most.
const maxNamed = 20

// copiedEarly are directories that are copied before something is downloaded that did not read them: it is downloaded again when any file changes.
func copiedEarly(d *dockerfile) (all []Finding) {
	if d.built == nil {
		return nil
	}
	for _, o := range d.built.ops {
		if c := d.built.copied(o); c != nil {
			if f := d.built.copyLater(c); f != nil {
				all = append(all, *f)
			}
		}
	}
	return all
}

// copyLater has the downloads after a COPY come before it.
func (g *graph) copyLater(c *copied) *Finding {
	plain := g.plainCopy(c)
	if plain == nil {
		return nil
	}
	moved, named := g.downloadsAfter(c)
	if len(moved) == 0 || len(c.files) == len(named) || len(named) > maxNamed || g.linked(c, named) {
		return nil
	}
	last := moved[len(moved)-1]
	f := finding("copy-before-download", moved[0].instruction(), 0)
	var took time.Duration
	ran := 0
	for _, o := range moved {
		runs := g.built.Runs(reasons.Step(o.Name))
		ran = max(ran, len(runs))
		took += again(runs)
	}
	names := slices.Sorted(maps.Keys(named))
	f.Seconds = took.Seconds()
	what := fmt.Sprintf("%d of the %s", len(named), files(len(c.files)))
	f.What = fmt.Sprintf("line %d copies %s, and this opened %s: it runs again whenever one of the others changes (it ran %s in the builds that are recorded)",
		c.node.StartLine, files(len(c.files)), what, times(ran))
	if len(named) == 0 {
		f.What = fmt.Sprintf("line %d copies %s, and this opened none of them: it runs again whenever one of them changes (it ran %s in the builds that are recorded)",
			c.node.StartLine, files(len(c.files)), times(ran))
		f.Change = fmt.Sprintf("line %d after line %d", c.node.StartLine, last.node.EndLine)
	} else {
		f.Change = fmt.Sprintf("copy %s first, and the rest after line %d", strings.Join(names, ", "), last.node.EndLine)
	}
	lines := plain.lines(names)
	if lines == nil && len(named) > 0 {
		return nil
	}
	f.edits = []edit{
		{c.node.StartLine, c.node.EndLine, lines},
		{last.node.EndLine + 1, last.node.EndLine, slices.Clone(g.lines[c.node.StartLine-1 : c.node.EndLine])},
	}
	return &f
}

// again is how long runs took that came after another one, or of a single one how long it took.
func again(runs []time.Duration) (sum time.Duration) {
	if len(runs) > 1 {
		runs = runs[:len(runs)-1]
	}
	for _, r := range runs {
		sum += r
	}
	return sum
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// downloadsAfter are the downloads right after a COPY that would do the same without most of its files, and the files that they need.
func (g *graph) downloadsAfter(c *copied) (moved []*op, named map[string]bool) {
	named = map[string]bool{}
	for at := c.op; len(at.users) == 1 && at.users[0].input == 0; at = moved[len(moved)-1] {
		o := at.users[0].by
		needs := g.needs(o, c)
		if needs == nil {
			break
		}
		maps.Copy(needs, named)
		for _, name := range lookedAt() {
			if c.files[name] {
				needs[name] = true
			}
		}
		touched, err := g.touched(o, c) // of none may it be another one that is there
		if err != nil || len(touched) > 0 || slices.ContainsFunc(append(moved, o), func(o *op) bool { return !g.listedAll(o, c, needs) }) {
			break
		}
		moved, named = append(moved, o), needs
	}
	return moved, named
}

// needs are the files of a COPY that a download has opened; nil: it is none, or not enough is known of it.
func (g *graph) needs(o *op, c *copied) map[string]bool {
	if o.Operation() != "exec" || o.node == nil || !strings.EqualFold(o.node.Value, "RUN") || o.node.Attributes["json"] || len(o.node.Heredocs) > 0 || o.node.Next == nil ||
		!onlyDownloads(o.node.Next.Value) {
		return nil
	}
	mounts, whole := o.Mounts()
	if !whole || slices.ContainsFunc(mounts, func(m reasons.Mounted) bool { return m.Type == "BIND" && m.At != "/" }) {
		return nil
	}
	t := g.opened(o)
	if !t.whole {
		return nil
	}
	named := map[string]bool{}
	for _, e := range t.paths {
		if rel, ok := below(c.to, e.path); ok && c.files[rel] {
			named[rel] = true
		}
	}
	return named
}

// listedAll reports whether a step that listed directories of a COPY would find the same in them with some of the files alone.
func (g *graph) listedAll(o *op, c *copied, named map[string]bool) bool {
	for _, e := range g.opened(o).paths {
		rel, ok := below(c.to, e.path)
		if !ok || e.kind != filetrace.Listed || !c.dirs[rel] && rel != "." {
			continue
		}
		for _, all := range []map[string]bool{c.files, c.dirs} {
			for name := range all {
				if name != "." && path.Dir(name) == rel && !covered(name, named) {
					return false
				}
			}
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

// plainCopy is a COPY that can be written once more for some of its files.
type plainCopy struct {
	keyword, flags string
	source, dest   string
	indent         string
}

// plainCopy takes a COPY to pieces; nil: it is another form than one directory to one place.
func (g *graph) plainCopy(c *copied) *plainCopy {
	n := c.node
	if !strings.EqualFold(n.Value, "COPY") || len(n.Heredocs) > 0 || strings.ContainsAny(n.Original, "$") || n.Next == nil || n.Next.Next == nil || n.Next.Next.Next != nil {
		return nil
	}
	p := &plainCopy{keyword: strings.Fields(n.Original)[0], source: n.Next.Value, dest: n.Next.Next.Value}
	for _, f := range n.Flags {
		if !strings.HasPrefix(f, "--chown=") && !strings.HasPrefix(f, "--chmod=") {
			return nil
		}
		p.flags += " " + f
	}
	line := g.lines[n.StartLine-1]
	p.indent = line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	return p
}

// lines are instructions that copy files alone, a line for each directory; nil where a name cannot be written.
func (p *plainCopy) lines(names []string) (all []string) {
	of := map[string][]string{}
	for _, name := range names {
		if strings.ContainsAny(name, "*?[]\\\n\r$#") {
			return nil
		}
		of[path.Dir(name)] = append(of[path.Dir(name)], path.Join(p.source, name))
	}
	for _, dir := range slices.Sorted(maps.Keys(of)) {
		dest := path.Join(p.dest, dir) + "/"
		if dest = strings.Replace(dest, "//", "/", 1); dest == "./" && strings.HasPrefix(p.dest, "/") {
			dest = "/"
		}
		words := append(of[dir], dest)
		text := strings.Join(words, " ")
		if strings.ContainsAny(strings.Join(words, ""), " \t\"'") || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "<<") || strings.HasPrefix(w, "-") }) {
			data, err := json.Marshal(words)
			if err != nil {
				return nil
			}
			text = string(data)
		}
		all = append(all, p.indent+p.keyword+p.flags+" "+text)
	}
	return all
}
