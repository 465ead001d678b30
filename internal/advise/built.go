package advise

import (
	"path"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
)

// Built is what builds of the Dockerfile have left, of which the last one made the image.
type Built struct {
	Graph *reasons.Build
	Lists reasons.Lists
	// Opened gives what the step with a key opened, and what is said of that; nil: it was not traced.
	Opened func(key string, each func(filetrace.Kind, string) error) (*filetrace.Summary, error)
	// Layer is what the step with a key has changed.
	Layer func(key string) (layer.Tree, error)
	// Runs are how long the process of a step ran in each build that is recorded and ran it, the newest first; it is known by its instruction.
	Runs func(step string) []time.Duration
	// Size is how large a file of the context is; false: it is none, or not there any more.
	Size func(name string) (int64, bool)
	// Content is that of a file of the context, as it is now.
	Content func(name string) ([]byte, error)
	// Shared reports whether other Dockerfiles have been built with the context.
	Shared bool
}

// contextName is what the frontend calls the build context.
const contextName = "[internal] load build context"

// op is a step of the graph, with its instruction.
type op struct {
	*reasons.Vertex
	index int
	node  *parser.Node
	users []use
	trace *trace // once it was read
}

// use is an input of an op.
type use struct {
	by    *op
	input int
}

// graph is the graph of the build, if it is one of the Dockerfile as it is now.
type graph struct {
	*dockerfile
	built *Built
	ops   []*op
}

// graph joins the steps of the last build with the instructions. It is nil where they are not those of the Dockerfile.
func (d *dockerfile) graph(b *Built) *graph {
	if b == nil || b.Graph == nil || !b.Graph.Valid() {
		return nil
	}
	g := &graph{dockerfile: d, built: b}
	for i := range b.Graph.Vertices {
		o := &op{Vertex: &b.Graph.Vertices[i], index: i}
		g.ops = append(g.ops, o)
		for k, in := range o.Inputs {
			if in >= 0 {
				g.ops[in].users = append(g.ops[in].users, use{o, k})
			}
		}
		if o.Operation() != "exec" && o.Operation() != "file" {
			continue
		}
		if o.node = d.nodes[o.Line]; o.node != nil && !sameInstruction(o.node, o.Name) {
			return nil
		}
	}
	g.apart()
	return g
}

// apart forgets the instructions of steps that are there more than once, as for several platforms: what is so of one may not be so of another.
func (g *graph) apart() {
	n := map[*parser.Node]int{}
	for _, o := range g.ops {
		n[o.node]++
	}
	for _, o := range g.ops {
		if n[o.node] > 1 {
			o.node = nil
		}
	}
}

// sameInstruction reports whether a step may be that of an instruction. Names of steps have the values of variables.
func sameInstruction(n *parser.Node, name string) bool {
	step := reasons.Step(name)
	word, _, _ := strings.Cut(step, " ")
	if strings.Contains(n.Original, "$") || len(n.Heredocs) > 0 {
		return strings.EqualFold(word, n.Value)
	}
	return strings.EqualFold(strings.Join(strings.Fields(step), " "), strings.Join(strings.Fields(n.Original), " ")) || strings.EqualFold(word, "WORKDIR") && strings.EqualFold(n.Value, "WORKDIR")
}

// instruction is that of an op, which has one.
func (o *op) instruction() *instruction {
	return &instruction{node: o.node, keyword: strings.ToUpper(o.node.Value), index: -1}
}

// below is a path without the directory that it is in: "." is the directory itself.
func below(dir, name string) (rel string, ok bool) {
	switch {
	case name == dir:
		return ".", true
	case dir == "/":
		return strings.TrimPrefix(name, "/"), strings.HasPrefix(name, "/")
	}
	return strings.CutPrefix(name, dir+"/")
}

// copied is what a COPY of one directory of the context brings.
type copied struct {
	*op
	from, to string          // the directory in the context, "." is all of it; and where that is in the filesystem
	files    map[string]bool // by their paths in from; links are among them
	dirs     map[string]bool
}

// copied is the COPY of a directory that an op is; nil: it is something else, or not known well enough.
func (g *graph) copied(o *op) *copied {
	copies, also := o.Copies()
	if o.Operation() != "file" || also || len(copies) != 1 || copies[0].From == "" || len(o.Inputs) != 2 || o.Inputs[1] < 0 ||
		g.ops[o.Inputs[1]].Name != contextName || o.node == nil {
		return nil
	}
	names := g.namesOf(o, 1)
	if names == nil {
		return nil
	}
	c := &copied{op: o, from: strings.TrimPrefix(path.Clean("/"+copies[0].From), "/"), to: path.Clean("/" + copies[0].To), files: map[string]bool{}, dirs: map[string]bool{}}
	if c.from == "" {
		c.from = "."
	}
	for _, name := range names {
		name, dir := strings.CutSuffix(name, "/")
		rel, ok := below(path.Join("/", c.from), path.Join("/", name))
		switch {
		case !ok || rel == "." && !dir: // a single file, or a pattern
			return nil
		case dir:
			c.dirs[rel] = true
		default:
			c.files[rel] = true
		}
	}
	return c
}

// at is where a file of a COPY is.
func (c *copied) at(rel string) string { return path.Join(c.to, rel) }

// touched reports whether a step has changed, replaced or deleted a file of a COPY, as its layer says.
func (g *graph) touched(o *op, c *copied) (map[string]bool, error) {
	tree, err := g.built.Layer(o.Key)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for dir := path.Dir(c.to); dir != "/" && dir != "."; dir = path.Dir(dir) { // of which one may be gone
		if e, err := tree.Lstat(strings.TrimPrefix(dir, "/")); err == nil && (!e.IsDir() || e.Opaque) {
			c.each("", all)
		}
	}
	top := strings.TrimPrefix(c.to, "/")
	if top == "" {
		top = "."
	}
	if _, err := tree.Lstat(top); err != nil {
		return all, nil //nolint:nilerr // nothing is there
	}
	err = layer.Walk(tree, top, func(e *layer.Entry) error {
		rel, ok := below(c.to, path.Join("/", e.Path))
		switch {
		case !ok:
		case !e.IsDir() && c.files[rel]:
			all[rel] = true
		case !e.IsDir() && (c.dirs[rel] || rel == ".") || e.IsDir() && (e.Opaque || c.files[rel]):
			c.each(rel, all)
		}
		return nil
	})
	return all, err
}

// each adds the files at or below a path.
func (c *copied) each(rel string, to map[string]bool) {
	for name := range c.files {
		if rel == "" || rel == "." || name == rel || strings.HasPrefix(name, rel+"/") {
			to[name] = true
		}
	}
}
