package fileop

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/slipway-build/slipway/internal/layer"
)

// lazy is what is in a directory of a plan that is not in memory. It is safe for concurrent use, and what it gives is
// only to be looked at.
type lazy interface {
	list() ([]child, error)          // in byte order
	find(name string) (*node, error) // nil is none
}

// maxNodes is how many nodes a plan has in memory before it looks for directories that can leave it.
var maxNodes = 16 << 10 // less in tests

// seals are what a plan has put into a file without a name: directories that have not changed lately, as those that
// an archive has left behind.
type seals struct {
	dir   string // where the file is made
	file  *os.File
	size  int64
	stuck bool // there is no such file to be had

	nodes, at int    // nodes in memory, and from how many on some leave it
	now       uint32 // counts the times that this was done
	spools    []*os.File
	copies    []*copying

	mu   sync.Mutex
	last *sealed // and what it gave
	kept []child
}

// sealed is a directory whose entries are in the file.
type sealed struct {
	p      *Plan
	at     int64
	length int
}

// What a sealed entry is besides an entry.
const (
	sealedNoBase = 1 << iota
	sealedDir    // its entries are sealed as well
	sealedSpool  // its content is in a spool
	sealedCopy   // its content is that of an object of a copy's source
)

// grown counts a new node.
func (p *Plan) grown(n int) {
	s := &p.seals
	if s.nodes += n; s.nodes < max(s.at, maxNodes) || s.stuck {
		return
	}
	p.sealBelow(p.root)
	s.now++
	s.at = s.nodes + s.nodes/2 // nothing of what stays may leave next time, too
}

// sealBelow seals the directories below one that nothing was put into since the last time, and reports whether
// nothing of it is in memory any more but the entries of the directory itself.
func (p *Plan) sealBelow(n *node) (alone bool) {
	alone = true
	for _, c := range n.children {
		if c.entry != nil && c.entry.IsDir() && len(c.children) > 0 {
			if !p.sealBelow(c) || c.touched == p.seals.now || !p.seal(c) {
				alone = false
			}
		}
	}
	return alone
}

// seal puts what is in a directory into the file, if it is of a kind that can be there.
func (p *Plan) seal(n *node) bool {
	s := &p.seals
	b, ok := p.encode(n)
	if !ok || s.stuck {
		return false
	}
	if s.file == nil {
		f, err := layer.TempFile(s.dir)
		if s.stuck = err != nil; s.stuck {
			return false
		}
		s.file = f
		p.close = append(p.close, f)
	}
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		s.stuck = true // then it all stays in memory
		return false
	}
	s.nodes -= len(n.children)
	n.children, n.lazy = nil, &sealed{p, s.size, len(b)}
	s.size += int64(len(b))
	return true
}

func (p *Plan) encode(n *node) (b []byte, ok bool) {
	var side []byte
	names := slices.Sorted(maps.Keys(n.children))
	entries, list := make([]layer.Entry, len(names)), make([]*layer.Entry, len(names))
	for i, name := range names {
		c := n.children[name]
		list[i] = &entries[i]
		if c.entry != nil {
			entries[i] = *c.entry
		} else {
			entries[i].Whiteout = true
		}
		if side, ok = p.encodeNode(side, c); !ok {
			return nil, false
		}
		e := &entries[i]
		e.Path, e.Content, e.Dev, e.Inode, e.Nlink = name, nil, 0, 0, 0
	}
	b = binary.AppendUvarint(nil, uint64(len(side)))
	return layer.AppendListing(append(b, side...), ".", list), true
}

// encodeNode appends what a listing does not tell of a node; ok is false for one that must stay in memory.
func (p *Plan) encodeNode(b []byte, n *node) (_ []byte, ok bool) {
	flags, numbers, source := uint64(0), []uint64(nil), ""
	if n.noBase {
		flags |= sealedNoBase
	}
	switch l := n.lazy.(type) {
	case *sealed:
		flags |= sealedDir
		numbers = append(numbers, uint64(l.at), uint64(l.length))
	case *graft:
		return b, false
	}
	if n.links != nil || len(n.children) > 0 {
		return b, false
	}
	if n.entry != nil && n.entry.Content != nil {
		if c, ok := n.entry.Content.(section); ok {
			i := slices.Index(p.seals.spools, c.f)
			if i < 0 {
				i = len(p.seals.spools)
				p.seals.spools = append(p.seals.spools, c.f)
			}
			flags |= sealedSpool
			numbers = append(numbers, uint64(i), uint64(c.off))
		} else if n.from != nil {
			i := slices.Index(p.seals.copies, n.from)
			if i < 0 {
				i = len(p.seals.copies)
				p.seals.copies = append(p.seals.copies, n.from)
			}
			flags |= sealedCopy
			numbers, source = append(numbers, uint64(i)), n.entry.Path
		} else {
			return b, false
		}
	}
	b = binary.AppendUvarint(b, flags)
	for _, v := range numbers {
		b = binary.AppendUvarint(b, v)
	}
	if flags&sealedCopy != 0 {
		b = append(binary.AppendUvarint(b, uint64(len(source))), source...)
	}
	return b, true
}

func (s *sealed) list() ([]child, error) {
	keep := &s.p.seals
	keep.mu.Lock()
	defer keep.mu.Unlock()
	if keep.last == s {
		return keep.kept, nil
	}
	list, err := s.read()
	if err != nil {
		return nil, fmt.Errorf("reading what was planned: %w", err)
	}
	keep.last, keep.kept = s, list
	return list, nil
}

func (s *sealed) find(name string) (*node, error) {
	list, err := s.list()
	return findChild(list, name), err
}

// findChild finds an entry of a sorted list; nil is none.
func findChild(list []child, name string) *node {
	i, ok := slices.BinarySearchFunc(list, name, func(c child, name string) int { return cmp.Compare(c.name, name) })
	if !ok {
		return nil
	}
	return list[i].node
}

// read gives nodes of its own for what is in the directory.
func (s *sealed) read() ([]child, error) {
	b := make([]byte, s.length)
	if _, err := s.p.seals.file.ReadAt(b, s.at); err != nil {
		return nil, err
	}
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, io.ErrUnexpectedEOF
	}
	side := &reader{b: b[n : n+int(size)]}
	list, err := layer.ReadListing(b[n+int(size):], nil, ".")
	if err != nil {
		return nil, err
	}
	out, nodes := make([]child, len(list)), make([]node, len(list))
	for i, e := range list {
		out[i] = child{e.Path, &nodes[i]}
		if !e.Whiteout {
			nodes[i].entry = e
		}
		if err := s.p.decodeNode(side, &nodes[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Plan) decodeNode(side *reader, n *node) error {
	flags := side.uint()
	n.noBase = flags&sealedNoBase != 0
	if flags&sealedDir != 0 {
		n.lazy = &sealed{p, int64(side.uint()), int(side.uint())}
	}
	if flags&sealedSpool != 0 {
		n.entry.Content = section{f: p.seals.spools[side.uint()], off: int64(side.uint()), size: n.entry.Size}
	}
	if flags&sealedCopy != 0 {
		n.from = p.seals.copies[side.uint()]
		n.entry.Path = side.str()
		src, err := n.from.source.Lstat(n.entry.Path)
		if err != nil {
			return err
		}
		n.entry.Content = src.Content
	}
	if side.short {
		return errors.New("it is damaged")
	}
	return nil
}

// reader takes numbers and strings off bytes.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.short = r.short || n <= 0; r.short {
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) str() string {
	n := r.uint()
	if r.short = r.short || n > uint64(len(r.b)); r.short {
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
