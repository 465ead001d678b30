package layer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// An index is a file: a magic line, the SHA-256 of what follows, and this: the entries in the order in which they
// came, in runs of entries of one directory; what else is to be known (indexTail); eight bytes with the place of that.
const (
	indexMagic = "slipway index v3\n"
	indexHead  = len(indexMagic) + sha256.Size
	indexBuf   = 256 << 10
)

const (
	flagHardlink = 1 << iota
	flagWhiteout
	flagOpaque
	flagImplied
	flagDigest
)

// What an index knows of all contents. Who does not know indexDigested takes it for nothing.
const (
	indexLocated  = 1 // places and digests
	indexDigested = 2 // digests
)

// run is where entries of a directory are that came one after the other.
type run struct {
	at      int64
	entries int
}

// IndexWriter is a [Sink] that writes an index while the entries come. It holds what there is of each directory, and of
// hard links; entries go to a file without a name when they become many. A path may come again as a directory
// that stays one; with anything else the index is not of use ([ErrReplaced]).
type IndexWriter struct {
	tmp string

	buf  []byte
	file *os.File // nil: buf has all
	hash hash.Hash
	n    int64 // bytes before buf

	run     *run   // in hand
	dir     string // of it
	dirs    map[string][]run
	prev    string // name of the entry before in the run
	links   map[string]string
	targets map[string]bool
	root    *IndexEntry
	entry   IndexEntry // in hand

	size      int64
	unlocated bool

	undigested bool
	replaced   bool
}

// ErrReplaced says that a stream has replaced what it had made before, which an [IndexWriter] does not follow.
var ErrReplaced = errors.New("writing index: an entry replaces another one")

// NewIndexWriter returns a writer that keeps what memory has no room for in a directory; "" is the system's.
func NewIndexWriter(tmp string) *IndexWriter {
	return &IndexWriter{tmp: tmp, hash: sha256.New(), dirs: map[string][]run{}, links: map[string]string{}, targets: map[string]bool{}}
}

// Add implements [Sink]; the place of the entry's content is not known.
func (w *IndexWriter) Add(e *Entry) error { return w.add(e, -1) }

// Close implements [Sink].
func (w *IndexWriter) Close() error { return nil }

// add notes an entry and where its content lies in the plain tar; -1 is not known.
func (w *IndexWriter) add(e *Entry, offset int64) error {
	if w.replaced = w.replaced || e.Replaces; w.replaced || e.Below {
		return nil
	}
	w.entry = IndexEntry{Entry: *e, Offset: offset}
	w.entry.ModTime = time.Unix(e.ModTime.Unix(), 0) // as the tar has it
	return w.Put(&w.entry)
}

// Put notes an entry as it is, with the time in nanoseconds and a number of the caller's for the place of its content. Who
// uses it replaces nothing.
func (w *IndexWriter) Put(e *IndexEntry) error {
	if e.IsRegular() && !e.Hardlink {
		w.size += e.Size
		w.unlocated = w.unlocated || e.Size > 0 && (e.Offset < 0 || e.Digest == "")
		w.undigested = w.undigested || e.Size > 0 && e.Digest == ""
	}
	if e.Hardlink {
		target := e.Link
		if first, ok := w.links[target]; ok {
			target = first
		}
		target = strings.Clone(target)
		w.links[strings.Clone(e.Path)], w.targets[target] = target, true
	}
	if e.Path == "." {
		root := *e
		w.root = &root
		return nil
	}
	dir, name := split(e.Path)
	if w.run == nil || dir != w.dir {
		w.dir, w.prev = strings.Clone(dir), "" // not what it is a part of
		w.dirs[w.dir] = append(w.dirs[w.dir], run{at: w.n + int64(len(w.buf))})
		w.run = &w.dirs[w.dir][len(w.dirs[w.dir])-1]
	}
	w.run.entries++
	w.buf = e.append(w.buf, name, w.prev)
	w.prev = name
	if len(w.buf) < indexBuf {
		return nil
	}
	return w.flush()
}

// flush puts what is in memory into the file.
func (w *IndexWriter) flush() (err error) {
	if w.file == nil {
		if w.file, err = TempFile(w.tmp); err != nil {
			return fmt.Errorf("writing index: %w", err)
		}
	}
	w.hash.Write(w.buf)
	if _, err := w.file.Write(w.buf); err != nil {
		return fmt.Errorf("writing index: %w", err)
	}
	w.n += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// Size adds up the bytes of all regular files.
func (w *IndexWriter) Size() int64 { return w.size }

// File ends the index and gives what was written, as long as the writer's file is there: nothing is written elsewhere, and
// there is no checksum.
func (w *IndexWriter) File() (*IndexFile, error) {
	if w.replaced {
		return nil, ErrReplaced
	}
	x := &IndexFile{r: bytes.NewReader(w.buf), end: w.n + int64(len(w.buf)), dirs: w.dirs, targets: map[string]uint64{}, root: w.root, located: !w.unlocated, digested: !w.undigested}
	if w.file != nil {
		if err := w.flush(); err != nil {
			return nil, err
		}
		x.r = w.file
	}
	for name := range w.targets {
		x.targets[name] = uint64(len(x.targets)) + 1
	}
	return x, nil
}

// WriteTo ends the index and writes all of it.
func (w *IndexWriter) WriteTo(out io.Writer) (int64, error) {
	if w.replaced {
		return 0, ErrReplaced
	}
	if w.file != nil {
		defer w.file.Close()
	}
	at := w.n + int64(len(w.buf))
	w.buf = binary.BigEndian.AppendUint64(w.tail(w.buf), uint64(at))
	w.hash.Write(w.buf)
	n, err := out.Write(w.hash.Sum([]byte(indexMagic)))
	total := int64(n)
	if err == nil && w.file != nil {
		var n int64
		if _, err = w.file.Seek(0, io.SeekStart); err == nil {
			n, err = io.Copy(out, w.file)
			total += n
		}
	}
	if err == nil {
		n, err = out.Write(w.buf)
		total += int64(n)
	}
	if err != nil {
		err = fmt.Errorf("writing index: %w", err)
	}
	return total, err
}

// tail appends what is to be known before entries are read.
func (w *IndexWriter) tail(b []byte) []byte {
	switch {
	case !w.unlocated:
		b = append(b, indexLocated)
	case !w.undigested:
		b = append(b, indexDigested)
	default:
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(w.dirs)))
	for _, dir := range slices.Sorted(maps.Keys(w.dirs)) {
		b = appendString(b, dir)
		b = binary.AppendUvarint(b, uint64(len(w.dirs[dir])))
		for _, r := range w.dirs[dir] {
			b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.at)), uint64(r.entries))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(w.targets)))
	for _, name := range slices.Sorted(maps.Keys(w.targets)) {
		b = appendString(b, name)
	}
	if w.root != nil {
		b = w.root.append(b, ".", "")
	}
	return b
}

// append writes an entry as varints and length-prefixed strings; the name shares its beginning
// with the one before.
func (e *IndexEntry) append(b []byte, name, prev string) []byte {
	shared := 0
	for shared < len(prev) && shared < len(name) && prev[shared] == name[shared] {
		shared++
	}
	flags := uint64(0)
	for i, set := range [...]bool{e.Hardlink, e.Whiteout, e.Opaque, e.Implied, e.Digest != ""} { // in the flags' order
		if set {
			flags |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = appendString(b, name[shared:])
	for _, v := range [...]uint64{flags, uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Major), uint64(e.Minor), uint64(e.Size)} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, e.Offset)
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	b = appendString(b, e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, k := range sortedKeys(e.Xattrs) {
		b = appendString(appendString(b, k), e.Xattrs[k])
	}
	if flags&flagDigest != 0 {
		b, _ = hex.AppendDecode(b, []byte(e.Digest.Encoded())) // a digest is hexadecimal
	}
	return b
}
