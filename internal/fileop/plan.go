package fileop

import (
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
	"golang.org/x/sys/unix"
)

// Plan is one layer that a file operation adds to a root filesystem, not yet written anywhere. As
// a layer.Tree it is the root filesystem with the layer on top. It holds no content but that of
// unpacked archives: the trees that it was made from must stay as they are until it was written.
type Plan struct {
	base  layer.Tree
	root  *node
	close []io.Closer
	seals seals
}

// node is a path that the plan knows of. All its parents are nodes too.
type node struct {
	entry    *layer.Entry // nil: removed; otherwise without Path
	children map[string]*node
	lazy     lazy     // directory: what is in it, in place of children; nil: it is children
	links    *linkSet // names of one file; nil: the only name
	from     *copying // whose source has the content at the entry's path; nil: none
	touched  uint32   // directory: when something was put into it last, in seals
	noBase   bool     // directory: what the base has below this path does not show
}

// linkSet is the identity of a file that has several names in a plan.
type linkSet struct {
	id      uint64
	names   int
	copy    *copying // that the file comes from, if it has grafts; nil: none
	hidden  int      // names in grafts, once they were counted
	changed bool     // the base has no one file with these names
}

var lastLinkSet atomic.Uint64

// newPlan gives a plan that changes nothing. tmp is where it makes its files.
func newPlan(base layer.Tree, tmp string) *Plan {
	return &Plan{base: base, root: &node{}, seals: seals{dir: tmp}}
}

// Empty reports whether the plan changes nothing.
func (p *Plan) Empty() bool { return p.root.lazy == nil && len(p.root.children) == 0 }

// Close frees what the plan holds. The plan and its contents must not be used any more. Closing
// it again does nothing.
func (p *Plan) Close() error {
	var first error
	for _, c := range p.close {
		if err := c.Close(); first == nil {
			first = err
		}
	}
	p.close = nil
	return first
}

// WriteTo hands the plan's entries to a sink, parents first and siblings in byte order; it does
// not close the sink. The root is no part of a layer.
func (p *Plan) WriteTo(sink layer.Sink) error {
	return p.root.write(".", sink, map[*linkSet]string{})
}

func (n *node) write(dir string, sink layer.Sink, first map[*linkSet]string) error {
	list, err := n.list()
	if err != nil {
		return err
	}
	for _, c := range list {
		path := joinName(dir, c.name)
		if c.entry == nil {
			if err := sink.Add(&layer.Entry{Path: path, Whiteout: true}); err != nil {
				return err
			}
			continue
		}
		e := *c.entry
		e.Path, e.Implied, e.Inode, e.Dev, e.Nlink = path, false, 0, 0, 0
		if c.links != nil {
			if target, ok := first[c.links]; ok {
				e.Hardlink, e.Link, e.Size, e.Content, e.Digest = true, target, 0, nil, ""
			} else {
				first[c.links] = path
			}
		}
		if err := sink.Add(&e); err != nil {
			return err
		}
		if err := c.write(path, sink, first); err != nil {
			return err
		}
	}
	return nil
}

func joinName(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// find walks to a path. The node is nil when the plan says nothing of it; then shadowed tells
// that the base must not be asked either. It is only to be looked at.
func (p *Plan) find(path string) (n *node, shadowed bool, err error) {
	return p.walk(path, (*node).find)
}

// held is find for a node that is to be changed.
func (p *Plan) held(path string) (n *node, err error) {
	n, _, err = p.walk(path, func(n *node, name string) (*node, error) {
		if err := p.hold(n); err != nil {
			return nil, err
		}
		return n.children[name], nil
	})
	return n, err
}

func (p *Plan) walk(path string, find func(*node, string) (*node, error)) (n *node, shadowed bool, err error) {
	n = p.root
	if path == "." {
		return n, false, nil
	}
	for rest := path; ; {
		name, more, _ := strings.Cut(rest, "/")
		c, err := find(n, name)
		if err != nil {
			return nil, false, err
		}
		if c == nil {
			return nil, shadowed || n.noBase, nil
		}
		shadowed = shadowed || n.noBase
		if more == "" {
			return c, shadowed, nil
		}
		if c.entry == nil || !c.entry.IsDir() {
			return nil, true, nil
		}
		n, rest = c, more
	}
}

// Lstat describes an object of the root filesystem with the plan on top.
func (p *Plan) Lstat(path string) (*layer.Entry, error) {
	n, shadowed, err := p.find(path)
	switch {
	case err != nil:
		return nil, err
	case n == p.root || (n == nil && !shadowed):
		return p.base.Lstat(path)
	case n == nil || n.entry == nil:
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	}
	return n.show(path), nil
}

// show is the node's entry as part of a tree.
func (n *node) show(path string) *layer.Entry {
	e := *n.entry
	e.Path, e.Opaque, e.Implied, e.Inode, e.Dev, e.Nlink = path, false, false, 0, 0, 0
	if n.links != nil {
		e.Dev, e.Inode, e.Nlink = math.MaxUint64, n.links.id, 2 // or more, or others that are not here
	}
	return &e
}

// ReadDir lists a directory of the root filesystem with the plan on top.
func (p *Plan) ReadDir(path string) ([]*layer.Entry, error) {
	n, shadowed, err := p.find(path)
	if err != nil {
		return nil, err
	}
	if n == nil && !shadowed {
		return p.base.ReadDir(path)
	}
	if n == nil || (n.entry == nil && n != p.root) {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: fs.ErrNotExist}
	}
	if n != p.root && !n.entry.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: unix.ENOTDIR}
	}
	var out []*layer.Entry
	if !shadowed && !n.noBase {
		below, err := p.base.ReadDir(path)
		if err != nil && !missing(err) {
			return nil, err
		}
		for _, e := range below {
			if _, base := splitPath(e.Path); n.children[base] == nil {
				out = append(out, e)
			}
		}
	}
	list, err := n.list()
	if err != nil {
		return nil, err
	}
	merged := len(out) > 0
	for _, c := range list {
		if c.entry != nil {
			out = append(out, c.show(joinName(path, c.name)))
		}
	}
	if !merged {
		return out, nil
	}
	slices.SortFunc(out, func(a, b *layer.Entry) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return out, nil
}

// directory gives the node of an existing directory; one of the base becomes part of the plan,
// with its attributes as they are.
func (p *Plan) directory(path string) (*node, error) {
	n, err := p.held(path)
	if err != nil || n == p.root {
		return n, err
	}
	if n == nil {
		if _, shadowed, err := p.find(path); err != nil || shadowed {
			if err != nil {
				return nil, err
			}
			return nil, &fs.PathError{Op: "lstat", Path: abs(path), Err: fs.ErrNotExist}
		}
		e, err := p.base.Lstat(path)
		if err != nil {
			return nil, err
		}
		up, name, err := p.parent(path)
		if err != nil {
			return nil, err
		}
		c := *e
		c.Opaque = false
		n = &node{entry: &c}
		up.set(name, n)
	}
	if n.entry == nil {
		return nil, &fs.PathError{Op: "lstat", Path: abs(path), Err: fs.ErrNotExist}
	}
	if !n.entry.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: abs(path), Err: unix.ENOTDIR}
	}
	return n, nil
}

// parent is directory for the one that an object is in, or will be: what is in it may then be changed.
func (p *Plan) parent(path string) (up *node, name string, err error) {
	dir, name := splitPath(path)
	if up, err = p.directory(dir); err == nil {
		err = p.hold(up)
	}
	return up, name, err
}

// set puts an entry into a directory that is in memory.
func (n *node) set(name string, c *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	if old := n.children[name]; old != nil && old.links != nil {
		old.links.names--
	}
	n.children[name] = c
}

// put makes a new object, whose parent must be a directory. A file may replace another file;
// everything else must have been removed before.
func (p *Plan) put(path string, e layer.Entry, links *linkSet) error {
	return p.putNode(path, &node{entry: &e, links: links})
}

func (p *Plan) putNode(path string, n *node) error {
	up, name, err := p.parent(path)
	if err != nil {
		return err
	}
	e, links := n.entry, n.links
	if links != nil {
		links.names++
	}
	if e.IsDir() {
		below, err := p.inBase(path)
		if err != nil {
			return err
		}
		n.noBase = true
		e.Opaque = below != nil && below.IsDir()
	}
	up.set(name, n)
	p.grown(1)
	return nil
}

// inBase gives what the base has at a path, nil when that is nothing or when a directory of the
// plan hides it.
func (p *Plan) inBase(path string) (*layer.Entry, error) {
	if _, shadowed, err := p.find(path); err != nil || shadowed {
		return nil, err
	}
	e, err := p.base.Lstat(path)
	if missing(err) {
		return nil, nil
	}
	return e, err
}

// remove takes away whatever is at a path, with all that is below.
func (p *Plan) remove(path string) error {
	below, err := p.inBase(path)
	if err != nil {
		return err
	}
	n, _, err := p.find(path)
	if err != nil || below == nil && n == nil {
		return err
	}
	up, name, err := p.parent(path)
	if err != nil {
		return err
	}
	if below != nil {
		up.set(name, &node{})
		return nil
	}
	up.set(name, nil)
	delete(up.children, name)
	return nil
}

// update changes the attributes of an existing directory.
func (p *Plan) update(path string, change func(*layer.Entry)) error {
	if path == "." {
		return nil // the root is no part of a layer
	}
	n, err := p.directory(path)
	if err != nil {
		return err
	}
	change(n.entry)
	return nil
}

// mkdirs makes a directory and its missing parents, all with the same attributes.
func (p *Plan) mkdirs(path string, mode uint32, own *owner, mtime time.Time) error {
	e, err := p.Lstat(path)
	switch {
	case err == nil && e.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: abs(path), Err: unix.ENOTDIR}
	case !missing(err):
		return err
	}
	parent, _ := splitPath(path)
	if err := p.mkdirs(parent, mode, own, mtime); err != nil {
		return err
	}
	return p.create(path, layer.Entry{Mode: unix.S_IFDIR | mode&0o777, ModTime: mtime}, own)
}

// create makes something that does not come from elsewhere. Without an owner it belongs to root.
// In a set-group-ID directory it gets the group and, a directory, that bit from there, as mkdir(2)
// and open(2) do.
func (p *Plan) create(path string, e layer.Entry, own *owner) error {
	dir, _ := splitPath(path)
	up, err := p.Lstat(dir)
	if err != nil {
		return err
	}
	if up.Mode&unix.S_ISGID != 0 {
		e.GID = up.GID
		if e.IsDir() {
			e.Mode |= unix.S_ISGID
		}
	}
	if own != nil {
		e.UID, e.GID = own.UID, own.GID
	}
	return p.put(path, e, nil)
}

// LayerTree is the layer alone as a tree: what it removes and what it hides shows, and times are those that its tar has.
func (p *Plan) LayerTree() layer.Tree { return planLayer{p} }

type planLayer struct{ p *Plan }

func (l planLayer) Lstat(path string) (*layer.Entry, error) {
	n, _, err := l.p.find(path)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	}
	return n.single(path), nil
}

func (l planLayer) ReadDir(path string) ([]*layer.Entry, error) {
	n, _, err := l.p.find(path)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: fs.ErrNotExist}
	case !n.single(path).IsDir():
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: unix.ENOTDIR}
	}
	list, err := n.list()
	out := make([]*layer.Entry, len(list))
	for i, c := range list {
		out[i] = c.single(joinName(path, c.name))
	}
	return out, err
}

// single is the node's entry as part of the layer alone. That of the root only stands for what is below.
func (n *node) single(path string) *layer.Entry {
	switch {
	case path == ".":
		return &layer.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, Implied: true}
	case n.entry == nil:
		return &layer.Entry{Path: path, Whiteout: true}
	}
	e := n.show(path)
	e.Opaque, e.ModTime = n.entry.Opaque, time.Unix(e.ModTime.Unix(), 0)
	return e
}
