package layer

import (
	"io"
	"io/fs"
	"sort"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Index is the metadata of a layer: what [Tree] tells of it, without its content. It is made in
// one pass over the layer's entries and says of each regular file, when the pass knew it, the
// content's digest and where the content lies in the layer's plain tar.
//
// As a [Sink] it takes entries in the order of a tar stream; a path that comes again replaces
// what was there. It is all in memory: where nothing is replaced, [IndexWriter] does.
type Index struct {
	entries []*IndexEntry // in the order in which they came, without what was replaced
	at      map[string]int
	below   map[string][]string // what was added to each directory; nil: not needed so far
	links   map[string][]string // hard links by their targets
}

// IndexEntry is an entry with the place of its content.
type IndexEntry struct {
	Entry
	Offset int64 // of the content in the plain tar, in bytes; -1 when not known
}

// NewIndex returns an empty index.
func NewIndex() *Index { return &Index{at: map[string]int{}} }

// Add notes one entry whose content's place is not known.
func (x *Index) Add(e *Entry) error { return x.add(e, -1) }

// Close implements [Sink].
func (x *Index) Close() error { return nil }

func (x *Index) add(e *Entry, offset int64) error {
	if e.Below {
		x.remove(e.Path)
		return nil
	}
	c := &IndexEntry{Entry: *e, Offset: offset}
	c.Content, c.Inode, c.Dev, c.Nlink = nil, 0, 0, 0
	c.ModTime = time.Unix(e.ModTime.Unix(), 0) // as the tar has it
	if i, ok := x.at[e.Path]; ok {
		if old := x.entries[i]; old.IsDir() && c.IsDir() {
			x.entries[i] = c // it keeps what is below
			return nil
		}
		x.remove(e.Path)
	}
	x.at[e.Path] = len(x.entries)
	x.entries = append(x.entries, c)
	if x.below != nil {
		dir, _ := split(e.Path)
		x.below[dir] = append(x.below[dir], e.Path)
	}
	if e.Hardlink {
		x.link(e.Link, e.Path)
	}
	return nil
}

// link notes that the entry at name is a hard link to the one at target.
func (x *Index) link(target, name string) {
	if x.links == nil {
		x.links = map[string][]string{}
	}
	x.links[target] = append(x.links[target], name)
}

// remove takes an entry away, with all that is below it. Hard links to it remain files.
func (x *Index) remove(name string) {
	i, ok := x.at[name]
	if !ok {
		return
	}
	old := x.entries[i]
	if old.IsDir() {
		if x.below == nil { // streams that need it are rare
			x.below = map[string][]string{}
			for p := range x.at {
				dir, _ := split(p)
				x.below[dir] = append(x.below[dir], p)
			}
		}
		for _, p := range x.below[name] {
			x.remove(p)
		}
		delete(x.below, name)
	}
	x.entries[i] = nil
	delete(x.at, name)
	target := ""
	if old.Hardlink {
		target = old.Link
	}
	for _, p := range x.links[name] {
		j, ok := x.at[p]
		if !ok || !x.entries[j].Hardlink || x.entries[j].Link != name {
			continue // gone, or something else by now
		}
		c := *x.entries[j]
		if target == "" { // the first link becomes the file
			c = *old
			c.Path, target = p, p
		} else {
			c.Link = target
			x.link(target, p)
		}
		x.entries[j] = &c
	}
	delete(x.links, name)
}

// WriteTo writes the index as an [IndexWriter] does.
func (x *Index) WriteTo(out io.Writer) (int64, error) {
	w := NewIndexWriter("")
	for _, e := range x.entries {
		if e == nil {
			continue
		}
		if err := w.Put(e); err != nil {
			return 0, err
		}
	}
	return w.WriteTo(out)
}

var lastTreeID atomic.Uint64

// newTreeID numbers the trees of layers: together with a number per file it is the identity of
// files with several names. No device of the host has the highest bit set.
func newTreeID() uint64 { return 1<<63 | lastTreeID.Add(1) }

// indexTree is the tree of one layer: whiteouts and opaque directories show, for [Merged].
type indexTree struct {
	entries  map[string]*Entry
	children map[string][]*Entry
}

// Tree returns the layer's tree. open gives the content of a regular file by its entry.
func (x *Index) Tree(open func(*IndexEntry) (io.ReadCloser, error)) Tree {
	t := &indexTree{entries: make(map[string]*Entry, len(x.entries)), children: map[string][]*Entry{}}
	dev := newTreeID()
	links := map[string]*Entry{}
	for i, ie := range x.entries {
		if ie == nil {
			continue
		}
		e := ie.Entry
		if ie.Hardlink {
			target := t.entries[ie.Link]
			if target == nil {
				continue // the reader of the stream has refused such links
			}
			if links[ie.Link] == nil {
				target.Dev, target.Inode, target.Nlink = dev, uint64(i)+1, 1
				links[ie.Link] = target
			}
			first := links[ie.Link]
			first.Nlink++
			path := e.Path
			e = *first
			e.Path = path
			links[path] = first
		} else if e.IsRegular() && e.Size > 0 {
			e.Content = &indexContent{entry: *ie, open: open}
		}
		t.entries[e.Path] = &e
	}
	for _, e := range t.entries {
		if e.Nlink > 0 {
			e.Nlink = 2 // that there are several names is all that counts
		}
		if e.Path != "." {
			dir, _ := split(e.Path)
			t.children[dir] = append(t.children[dir], e)
		}
	}
	for _, list := range t.children {
		sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	}
	if t.entries["."] == nil {
		t.entries["."] = &Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, Implied: true}
	}
	return t
}

func (t *indexTree) Lstat(name string) (*Entry, error) {
	e, ok := t.entries[name]
	if !ok {
		return nil, pathError("lstat", name, fs.ErrNotExist)
	}
	c := *e
	return &c, nil
}

func (t *indexTree) ReadDir(name string) ([]*Entry, error) {
	e, ok := t.entries[name]
	if !ok {
		return nil, pathError("readdir", name, fs.ErrNotExist)
	}
	if !e.IsDir() {
		return nil, pathError("readdir", name, unix.ENOTDIR)
	}
	list := make([]*Entry, len(t.children[name]))
	for i, e := range t.children[name] {
		c := *e
		list[i] = &c
	}
	return list, nil
}
