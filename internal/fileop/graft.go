package fileop

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/slipway-build/slipway/internal/layer"
)

// graft is what a copy without patterns puts into a directory that was not there before: all that the source has
// below one of its own. None of it is held: whoever wants to know what is in the directory asks the source, which
// stays as it is. So a plan is as large as what it merges with, not as what it copies.
type graft struct {
	c   *copying
	dir *layer.Entry // of the source

	mu   sync.Mutex
	read bool
	kept []child // what is in the directory, when not much was kept before
}

// child is an entry of a directory of a plan.
type child struct {
	name string
	*node
}

// maxKept is how many entries the grafts of a copy keep once they were read: many a plan is written twice.
const maxKept = 16 << 10

// copying is what a copy makes of the objects of one match.
type copying struct {
	*copier
	kept atomic.Int64

	mu      sync.Mutex
	links   map[[2]uint64]*linkSet // of files of the source with several names
	grafts  []*graft
	counted bool // links knows the names in grafts
}

// link gives the identity of a file that may have several names, otherwise nil.
func (c *copying) link(src *layer.Entry) *linkSet {
	if !src.IsRegular() || src.Nlink < 2 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := [2]uint64{src.Dev, src.Inode}
	l := c.links[id]
	if l == nil {
		l = &linkSet{id: lastLinkSet.Add(1), copy: c}
		c.links[id] = l
	}
	return l
}

// plant makes the directory at a path a graft, if the copy has made it and has put nothing into it so far.
func (c *copying) plant(src *layer.Entry, to string) bool {
	n, _ := c.plan.held(to)
	if n == nil || n.entry == nil || !n.noBase || n.lazy != nil || len(n.children) > 0 {
		return false
	}
	g := &graft{c: c, dir: src}
	n.lazy, c.grafts = g, append(c.grafts, g)
	return true
}

// countLinks counts the names of files that are in grafts.
func (c *copying) countLinks() error {
	if c.counted {
		return nil
	}
	c.counted = true
	for _, g := range c.grafts {
		err := layer.Walk(c.source, g.dir.Path, func(e *layer.Entry) error {
			if l := c.link(e); l != nil {
				l.hidden++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// list tells what is in the directory, in byte order.
func (g *graft) list() ([]child, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read {
		return g.kept, nil
	}
	entries, err := g.c.source.ReadDir(g.dir.Path)
	if err != nil {
		return nil, fmt.Errorf("reading source directory %q: %w", abs(g.dir.Path), err)
	}
	out, nodes, own := make([]child, len(entries)), make([]node, len(entries)), make([]layer.Entry, len(entries))
	for i, e := range entries {
		n := &nodes[i]
		n.entry = &own[i]
		if err := g.node(n, e); err != nil {
			return nil, err
		}
		_, out[i].name = splitPath(e.Path)
		out[i].node = n
	}
	if g.c.kept.Add(int64(len(out))) <= maxKept {
		g.kept, g.read = out, true
	}
	return out, nil
}

// find gives one entry of the directory; nil is none.
func (g *graft) find(name string) (*node, error) {
	g.mu.Lock()
	read, kept := g.read, g.kept
	g.mu.Unlock()
	if read {
		return findChild(kept, name), nil
	}
	e, err := g.c.source.Lstat(joinName(g.dir.Path, name))
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &node{entry: &layer.Entry{}}
	return n, g.node(n, e)
}

// node makes n that of an object of the source.
func (g *graft) node(n *node, src *layer.Entry) error {
	var err error
	if src.IsDir() {
		*n.entry = g.c.attributes(src)
		n.noBase, n.lazy = true, &graft{c: g.c, dir: src}
	} else if *n.entry, err = g.c.object(src); err != nil {
		return fmt.Errorf("copying %q: %w", abs(src.Path), err)
	}
	n.links = g.c.link(src)
	return nil
}

// list tells what is in a directory of a plan, in byte order.
func (n *node) list() ([]child, error) {
	if n.lazy != nil {
		return n.lazy.list()
	}
	out := make([]child, 0, len(n.children))
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		out = append(out, child{name, n.children[name]})
	}
	return out, nil
}

// find gives an entry of a directory of a plan; nil is none.
func (n *node) find(name string) (*node, error) {
	if n.lazy != nil {
		return n.lazy.find(name)
	}
	return n.children[name], nil
}

// hold makes what is in a directory a part of the plan, which may then be changed.
func (p *Plan) hold(n *node) error {
	n.touched = p.seals.now
	if n.lazy == nil {
		return nil
	}
	list, err := n.lazy.list()
	if err != nil {
		return err
	}
	n.lazy, n.children = nil, make(map[string]*node, len(list))
	for _, c := range list {
		n.children[c.name] = c.node
	}
	p.seals.last, p.seals.kept = nil, nil // they are changed now
	p.seals.nodes += len(list)
	return nil
}
