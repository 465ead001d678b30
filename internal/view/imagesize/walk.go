package imagesize

import (
	"context"
	"path"

	"github.com/slipway-build/slipway/internal/layer"
)

// walk goes through the trees of all layers at once.
type walk struct {
	ctx    context.Context
	trees  []layer.Tree
	opt    Options
	layers []layerSum
	shown  int // files that a container sees
	root   *Node
	hidden longest
	pairs  map[pairKey]pairSum
	links  map[linkKey]*link
	twice  contents
	left   leftovers
}

type layerSum struct {
	size, wasted, hides int64
	files               int
}

// part is what one layer has of a directory.
type part struct {
	layer  int
	hidden *fate // nil: a container sees it
	list   []*layer.Entry
}

// fate is how something of a layer came to be hidden: the first layer that hides it.
type fate struct {
	hider int
	how   How
	item  *Hidden // what it is counted in
}

// link is a file of one layer with several names. It is hidden when all of them are.
type link struct {
	size  int64
	path  string // its first name
	shown bool
	fate  *fate // of the name that was hidden last
}

type linkKey struct {
	layer    int
	dev, ino uint64
}

func newWalk(ctx context.Context, trees []layer.Tree, opt Options) *walk {
	return &walk{ctx: ctx, trees: trees, opt: opt, layers: make([]layerSum, len(trees)), hidden: longest{most: opt.Most},
		pairs: map[pairKey]pairSum{}, links: map[linkKey]*link{}, left: leftovers{Rules(), map[string]*ruleSum{}}}
}

func (w *walk) all() error {
	parts := make([]part, len(w.trees))
	for i := range w.trees {
		parts[i].layer = i
	}
	w.root = &Node{Name: "/"}
	if err := w.dir(".", parts, w.root, nil); err != nil {
		return err
	}
	for key, l := range w.links {
		if !l.shown {
			w.hide(key.layer, l.size, &fate{l.fate.hider, l.fate.how, nil}, l.path, false)
		}
	}
	return nil
}

// dir goes through a directory of which some layers have a part. In left are the leftovers that the directory is among.
func (w *walk) dir(name string, parts []part, node *Node, left *leftRoot) (err error) {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	for i := range parts {
		if parts[i].list, err = w.trees[parts[i].layer].ReadDir(name); err != nil {
			return err
		}
	}
	if left == nil {
		left = w.left.enter(name)
		defer w.left.leave(left)
	}
	for {
		here, at := next(parts)
		if at == "" {
			return nil
		}
		child, err := w.entry(at, here, left)
		if err != nil {
			return err
		}
		if child != nil {
			node.add(child, w.opt.Share)
		}
	}
}

// found is an entry of a layer's part of a directory.
type found struct {
	part *part
	*layer.Entry
}

// next takes the first path of all parts, with what each of them has there, the lowest layer first. "" is the end.
func next(parts []part) (here []found, at string) {
	for i := range parts {
		if l := parts[i].list; len(l) > 0 && (at == "" || l[0].Path < at) {
			at = l[0].Path
		}
	}
	for i := range parts {
		if l := parts[i].list; len(l) > 0 && l[0].Path == at {
			here = append(here, found{&parts[i], l[0]})
			parts[i].list = l[1:]
		}
	}
	return here, at
}

// entry counts what the layers have at one path.
func (w *walk) entry(at string, here []found, left *leftRoot) (*Node, error) {
	node := &Node{Name: path.Base(at)}
	var below []part
	var items []*Hidden // directories that are hidden as a whole
	for i, f := range here {
		fate, err := w.fate(here, i)
		if err != nil {
			return nil, err
		}
		if f.IsDir() {
			below = append(below, part{layer: f.part.layer, hidden: fate})
			if fate != nil && fate.item == nil {
				fate.item = &Hidden{Path: "/" + at + "/", Instruction: f.part.layer, HiddenBy: fate.hider, How: fate.how}
				items = append(items, fate.item)
			}
			continue
		}
		if err := w.file(f, fate, node, left); err != nil {
			return nil, err
		}
	}
	if len(below) == 0 {
		return node, nil
	}
	node.Name += "/"
	if err := w.dir(at, below, node, left); err != nil {
		return nil, err
	}
	for _, item := range items {
		w.hidden.offer(item)
	}
	return node, nil
}

// fate tells how the i-th of the entries at one path came to be hidden, or nil.
func (w *walk) fate(here []found, i int) (*fate, error) {
	inherited := here[i].part.hidden
	if here[i].Whiteout {
		return nil, nil
	}
	for _, upper := range here[i+1:] {
		if inherited != nil && inherited.hider <= upper.part.layer {
			break
		}
		how, ok, err := hides(here[i].Entry, upper.Entry)
		if err != nil {
			return nil, err
		}
		if ok {
			return &fate{hider: upper.part.layer, how: how}, nil
		}
	}
	return inherited, nil
}

// file counts something that is no directory.
func (w *walk) file(f found, fate *fate, node *Node, left *leftRoot) error {
	if f.Whiteout || !f.IsRegular() {
		return nil
	}
	if f.Nlink > 1 {
		return w.linked(f, fate, node, left)
	}
	sum := &w.layers[f.part.layer]
	sum.size += f.Size
	sum.files++
	if fate == nil {
		w.show(f, node, left)
	} else {
		w.hide(f.part.layer, f.Size, fate, f.Path, true)
		node.Wasted += f.Size
	}
	return w.twice.note(f.Entry)
}

// linked counts one name of a file that has several.
func (w *walk) linked(f found, fate *fate, node *Node, left *leftRoot) error {
	key := linkKey{f.part.layer, f.Dev, f.Inode}
	l, known := w.links[key]
	if !known {
		l = &link{size: f.Size, path: f.Path}
		w.links[key] = l
		w.layers[f.part.layer].size += f.Size
		w.layers[f.part.layer].files++
		if err := w.twice.note(f.Entry); err != nil {
			return err
		}
	}
	switch {
	case fate == nil && !l.shown:
		l.shown = true
		w.show(f, node, left)
	case fate != nil && (l.fate == nil || l.fate.hider < fate.hider):
		l.fate = fate
	}
	return nil
}

// show counts a file that a container sees.
func (w *walk) show(f found, node *Node, left *leftRoot) {
	node.Size += f.Size
	node.Files++
	w.shown++
	if left == nil {
		left = w.left.file(f.Path)
		defer w.left.leave(left)
	}
	left.count(f.part.layer, f.Size)
}

// hide counts a file that no container sees; a single one is an item of its own where no directory of it is hidden.
func (w *walk) hide(writer int, size int64, fate *fate, name string, single bool) {
	w.layers[writer].wasted += size
	w.layers[fate.hider].hides += size
	key := pairKey{writer, fate.hider, fate.how}
	sum := w.pairs[key]
	w.pairs[key] = pairSum{sum.size + size, sum.files + 1}
	if fate.item != nil && single {
		fate.item.Size += size
		fate.item.Files++
		return
	}
	w.hidden.offer(&Hidden{Path: "/" + name, Size: size, Files: 1, Instruction: writer, HiddenBy: fate.hider, How: fate.how})
}
