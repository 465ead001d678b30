package layer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// IndexFile is an index that is read from where it was written to, directory by directory.
type IndexFile struct {
	r       io.ReaderAt
	end     int64 // of the entries
	dirs    map[string][]run
	targets map[string]uint64 // paths that hard links lead to, with numbers
	root    *IndexEntry
	located bool

	digested bool
}

var errIndex = errors.New("reading index: it is damaged")

// ErrIndexVersion says that an index is one of another version, which is made again.
var ErrIndexVersion = errors.New("reading index: it is of another version")

// ReadIndex opens an index of so many bytes, which r must give as long as it is used. Damage is always found: all of
// it is read for that.
func ReadIndex(r io.ReaderAt, size int64) (*IndexFile, error) {
	head := make([]byte, indexHead)
	_, err := r.ReadAt(head, 0)
	if err == nil && !bytes.HasPrefix(head, []byte(indexMagic)) && bytes.HasPrefix(head, []byte("slipway index v")) {
		return nil, ErrIndexVersion
	}
	if err != nil || !bytes.HasPrefix(head, []byte(indexMagic)) || size < int64(indexHead)+8 {
		return nil, errIndex
	}
	h := sha256.New()
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	body := io.NewSectionReader(r, int64(indexHead), size-int64(indexHead))
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{body}, *buf); err != nil {
		return nil, fmt.Errorf("reading index: %w", err)
	}
	if !bytes.Equal(h.Sum(nil), head[len(indexMagic):]) {
		return nil, errIndex
	}
	var last [8]byte
	if _, err := body.ReadAt(last[:], body.Size()-8); err != nil {
		return nil, fmt.Errorf("reading index: %w", err)
	}
	end := binary.BigEndian.Uint64(last[:])
	if end > uint64(body.Size()-8) {
		return nil, errIndex
	}
	tail := make([]byte, body.Size()-8-int64(end))
	if _, err := body.ReadAt(tail, int64(end)); err != nil {
		return nil, fmt.Errorf("reading index: %w", err)
	}
	x := &IndexFile{r: body, end: int64(end), dirs: map[string][]run{}, targets: map[string]uint64{}}
	return x, x.tail(tail)
}

func (x *IndexFile) tail(b []byte) error {
	d := &indexDecoder{b: b}
	known := d.take(1)
	x.located = len(known) == 1 && known[0] == indexLocated
	x.digested = x.located || len(known) == 1 && known[0] == indexDigested
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		dir := d.str()
		count := d.uint()
		if count > uint64(len(d.b)) {
			return errIndex
		}
		runs := make([]run, count)
		for i := range runs {
			runs[i] = run{at: int64(d.uint()), entries: int(d.uint())}
			if runs[i].at < 0 || runs[i].at > x.end || runs[i].entries < 0 || int64(runs[i].entries) > x.end {
				return errIndex
			}
		}
		x.dirs[dir] = runs
	}
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		x.targets[d.str()] = n
	}
	if len(d.b) > 0 {
		x.root = &IndexEntry{}
		d.entry(x.root, "")
	}
	if d.err != nil {
		return fmt.Errorf("reading index: %w", d.err)
	}
	return nil
}

// Located reports whether every content's place and digest is known.
func (x *IndexFile) Located() bool { return x.located }

// Digested reports whether every content's digest is known.
func (x *IndexFile) Digested() bool { return x.digested }

// list gives the entries of a directory in byte order.
func (x *IndexFile) list(dir string) ([]IndexEntry, error) {
	runs := x.dirs[dir]
	n := 0
	for _, r := range runs {
		n += r.entries
	}
	out := make([]IndexEntry, 0, n)
	for _, r := range runs {
		var err error
		if out, err = x.run(out, dir, r); err != nil {
			return nil, err
		}
	}
	if !slices.IsSortedFunc(out, comparePaths) {
		slices.SortStableFunc(out, comparePaths)
	}
	// Of a directory that came more than once, the last counts.
	last := out[:0]
	for i := range out {
		if i+1 == len(out) || out[i].Path != out[i+1].Path {
			last = append(last, out[i])
		}
	}
	return last, nil
}

func comparePaths(a, b IndexEntry) int { return cmp.Compare(a.Path, b.Path) }

// run appends the entries of a run.
func (x *IndexFile) run(out []IndexEntry, dir string, r run) ([]IndexEntry, error) {
	const guess = 160 // bytes of an entry
	for size := int64(r.entries)*guess + 256; ; size *= 4 {
		b := make([]byte, min(size, x.end-r.at))
		if _, err := x.r.ReadAt(b, r.at); err != nil {
			return nil, fmt.Errorf("reading index: %w", err)
		}
		d, from, prev := &indexDecoder{b: b}, len(out), ""
		for i := 0; i < r.entries && d.err == nil; i++ {
			out = append(out, IndexEntry{})
			e := &out[len(out)-1]
			prev = d.entry(e, prev)
			e.Path = join(dir, prev)
		}
		if d.err == nil {
			return out, nil
		}
		if size >= x.end-r.at {
			return nil, fmt.Errorf("reading index: %w", d.err)
		}
		out = out[:from]
	}
}

// Lookup returns a function, for one goroutine, that finds what the index has at a path, hard links as they are; nil is
// nothing.
func (x *IndexFile) Lookup() func(name string) (*IndexEntry, error) {
	return (&indexFileTree{x: x}).lookup
}

// Tree returns the layer's tree. open gives the content of a regular file by its entry.
func (x *IndexFile) Tree(open func(*IndexEntry) (io.ReadCloser, error)) Tree {
	return &indexFileTree{x: x, open: open, dev: newTreeID()}
}

// indexFileTree is the tree of one layer: whiteouts and opaque directories show, for [Merged].
type indexFileTree struct {
	x    *IndexFile
	open func(*IndexEntry) (io.ReadCloser, error)
	dev  uint64

	mu   sync.Mutex
	kept [8]keptListing // those that single entries were asked of last
	next int
}

type keptListing struct {
	dir  string
	list []IndexEntry
}

// listing is the one of a directory, kept for the next question about it.
func (t *indexFileTree) listing(dir string) ([]IndexEntry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.kept {
		if k.dir == dir {
			return k.list, nil
		}
	}
	list, err := t.x.list(dir)
	if err == nil {
		t.kept[t.next], t.next = keptListing{dir, list}, (t.next+1)%len(t.kept)
	}
	return list, err
}

func (t *indexFileTree) Lstat(name string) (*Entry, error) {
	e, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, pathError("lstat", name, fs.ErrNotExist)
	}
	out := &Entry{}
	ok, err := t.entry(out, &indexContent{open: t.open}, e, 0)
	if err == nil && !ok {
		err = pathError("lstat", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// lookup finds what the index has at a path; nil is nothing.
func (t *indexFileTree) lookup(name string) (*IndexEntry, error) {
	if name == "." {
		if t.x.root != nil {
			return t.x.root, nil
		}
		return &IndexEntry{Entry: Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, Implied: true}}, nil
	}
	dir, _ := split(name)
	list, err := t.listing(dir)
	if err != nil {
		return nil, err
	}
	i, ok := slices.BinarySearchFunc(list, name, func(e IndexEntry, name string) int { return cmp.Compare(e.Path, name) })
	if !ok {
		return nil, nil
	}
	return &list[i], nil
}

// entry makes out what the tree shows of an entry. It is not shown when it is a hard link to nothing, which the
// reader of a stream has refused.
func (t *indexFileTree) entry(out *Entry, content *indexContent, e *IndexEntry, links int) (bool, error) {
	if e.Hardlink {
		target, err := t.lookup(e.Link)
		if err != nil || target == nil || links > maxLinks {
			return false, err
		}
		ok, err := t.entry(out, content, target, links+1)
		out.Path = e.Path
		return ok, err
	}
	*out = e.Entry
	if e.IsRegular() && e.Size > 0 {
		content.entry = *e
		out.Content = content
	}
	if n, ok := t.x.targets[e.Path]; ok {
		out.Dev, out.Inode, out.Nlink = t.dev, n, 2 // that there are several names is all that counts
	}
	return true, nil
}

func (t *indexFileTree) ReadDir(name string) ([]*Entry, error) {
	if _, ok := t.x.dirs[name]; !ok && name != "." {
		switch e, err := t.lookup(name); {
		case err != nil:
			return nil, err
		case e == nil:
			return nil, pathError("readdir", name, fs.ErrNotExist)
		case !e.IsDir():
			return nil, pathError("readdir", name, unix.ENOTDIR)
		}
	}
	list, err := t.x.list(name)
	if err != nil {
		return nil, err
	}
	entries, contents := make([]Entry, len(list)), make([]indexContent, len(list))
	out := make([]*Entry, 0, len(list))
	for i := range list {
		contents[i].open = t.open
		ok, err := t.entry(&entries[i], &contents[i], &list[i], 0)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, &entries[i])
		}
	}
	return out, nil
}

type indexContent struct {
	entry IndexEntry
	open  func(*IndexEntry) (io.ReadCloser, error)
}

func (c *indexContent) Open() (io.ReadCloser, error) { return c.open(&c.entry) }

// Indexed is a Content of the tree of an index. Its entry is that of the file itself, where a tree has a hard link to it.
type Indexed interface {
	Content
	Indexed() *IndexEntry
}

// Indexed implements [Indexed].
func (c *indexContent) Indexed() *IndexEntry { return &c.entry }

// indexDecoder takes bytes apart. After an error it gives nothing.
type indexDecoder struct {
	b   []byte
	err error
}

func (d *indexDecoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.err, d.b = io.ErrUnexpectedEOF, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *indexDecoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.err, d.b = io.ErrUnexpectedEOF, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *indexDecoder) str() string { return string(d.bytes()) }

func (d *indexDecoder) bytes() []byte { return d.take(d.uint()) }

func (d *indexDecoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.err, d.b = io.ErrUnexpectedEOF, nil
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

// entry decodes an entry but for its directory, and returns its name.
func (d *indexDecoder) entry(e *IndexEntry, prev string) string {
	shared := d.uint()
	if shared > uint64(len(prev)) {
		d.err, d.b = io.ErrUnexpectedEOF, nil
		return ""
	}
	e.Path = prev[:shared] + d.str()
	flags := d.uint()
	e.Hardlink, e.Whiteout, e.Opaque, e.Implied = flags&flagHardlink != 0, flags&flagWhiteout != 0, flags&flagOpaque != 0, flags&flagImplied != 0
	e.Mode, e.UID, e.GID = uint32(d.uint()), uint32(d.uint()), uint32(d.uint())
	e.Major, e.Minor, e.Size = uint32(d.uint()), uint32(d.uint()), int64(d.uint())
	e.Offset = d.int()
	sec := d.int()
	e.ModTime = time.Unix(sec, int64(d.uint()))
	e.Link = d.str()
	if n := d.uint(); n > 0 && d.err == nil {
		e.Xattrs = map[string]string{}
		for ; n > 0 && d.err == nil; n-- {
			k := d.str()
			e.Xattrs[k] = d.str()
		}
	}
	if flags&flagDigest != 0 {
		e.Digest = SHA256Digest(d.take(32))
	}
	return e.Path
}
