package advise

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

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
	m := g.downloadsAfter(c)
	if len(m.ops) == 0 || len(c.files) == len(m.named) || len(m.named) > maxNamed || g.linked(c, m.named) {
		return nil
	}
	last := m.ops[len(m.ops)-1]
	f := finding("copy-before-download", m.ops[0].instruction(), 0)
	var took time.Duration
	ran := 0
	for _, o := range m.ops {
		runs := g.built.Runs(reasons.Step(o.Name))
		ran = max(ran, len(runs))
		took += again(runs)
	}
	f.Seconds = took.Seconds()
	names := slices.Sorted(maps.Keys(m.named))
	lines := plain.lines(names)
	if lines == nil && len(names) > 0 {
		return nil
	}
	needs, others := "none of them", "one of them"
	if len(names) > 0 {
		needs, others = fmt.Sprintf("%d of them (%s)", len(names), strings.Join(names, ", ")), "another one"
	}
	f.What = fmt.Sprintf("line %d copies %s before this, which needs %s: it runs again whenever %s changes (it ran %s in the builds that are recorded)",
		c.node.StartLine, files(len(c.files)), needs, others, times(ran))
	switch {
	case m.own != "":
		f.Change = m.own
		return &f
	case len(names) == 0:
		f.Change = fmt.Sprintf("line %d after line %d", c.node.StartLine, last.node.EndLine)
	default:
		f.Change = fmt.Sprintf("copy %s first, and the rest after line %d", strings.Join(names, ", "), last.node.EndLine)
	}
	if len(m.listed) > 0 {
		f.Change += fmt.Sprintf(" (it listed %s to find its own files; that other names there mean nothing to it is assumed)", strings.Join(m.listed, ", "))
	}
	f.edits = []edit{
		{c.node.StartLine, c.node.EndLine, lines},
		{last.node.EndLine + 1, last.node.EndLine, plain.later(c, m.elsewhere)},
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

// plainCopy is a COPY that can be written once more for some of its files.
type plainCopy struct {
	keyword, flags string
	source, dest   string
	indent         string
	text           []string // its lines
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
	p.text = slices.Clone(g.lines[n.StartLine-1 : n.EndLine])
	line := p.text[0]
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
		line := p.instruction(append(of[dir], dest))
		if line == "" {
			return nil
		}
		all = append(all, line)
	}
	return all
}

// later are the lines of the COPY where it comes later. elsewhere: it is another working directory there.
func (p *plainCopy) later(c *copied, elsewhere bool) []string {
	if !elsewhere || path.IsAbs(p.dest) {
		return p.text
	}
	return []string{p.instruction([]string{p.source, strings.TrimSuffix(c.to, "/") + "/"})}
}

// instruction is a COPY with other words, or "".
func (p *plainCopy) instruction(words []string) string {
	text := strings.Join(words, " ")
	if strings.ContainsAny(strings.Join(words, ""), " \t\"'") || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "<<") || strings.HasPrefix(w, "-") }) {
		data, err := json.Marshal(words)
		if err != nil {
			return ""
		}
		text = string(data)
	}
	return p.indent + p.keyword + p.flags + " " + text
}
