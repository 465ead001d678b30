package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TarOptions bounds what [ReadTar] accepts. Zero fields take the defaults given.
type TarOptions struct {
	MaxEntries int   // headers; 10 million
	MaxSize    int64 // bytes of content in all; 1 TiB
	MaxSparse  int64 // bytes of content in all that come from sparse files, whose holes cost nothing to send; 16 GiB
	MaxXattrs  int   // bytes of the extended attributes of one entry; 1 MiB
	// Lower is what lies below the layer, if known: parent directories that the archive does not
	// mention take their attributes from there. Otherwise they belong to root with mode 0755.
	Lower Tree
	// SkipImplied: parent directories that the archive does not mention are not handed on; the sink
	// knows better what to do about them.
	SkipImplied bool
	// NoWhiteouts: the archive is no layer; ".wh." names are names like any others.
	NoWhiteouts bool
}

const (
	maxName = 255  // NAME_MAX
	maxPath = 4095 // PATH_MAX without its NUL
)

// ReadTar reads an uncompressed tar stream, which may be hostile, and hands it to a sink, which it
// does not close. It reads r to its end, so that a digest over r is of the whole blob.
//
// Entries come in the order of the stream. Names are made relative and clean; a name that leaves
// the root, an entry below something that the same stream made a file or a symbolic link, a hard
// link to what the stream has not shown yet, an invalid ".wh." name or too much of anything gives
// an error that is [ErrHostile]. Missing parents are added. A whiteout only acts on the layers
// below, wherever in the stream it stands: beside a directory of the same name it makes that
// opaque. Extended attributes that no layer keeps are dropped.
//
// # Caveats
//
// A name that comes twice is handed on twice, the second replaces the first; a directory comes
// again when it turns out to be opaque. The Content of an entry can be opened once, until Add
// returns.
func ReadTar(r io.Reader, opt TarOptions, sink Sink) error {
	t := &tarReader{tr: tar.NewReader(r), opt: opt.withDefaults(), sink: sink, root: &seen{dir: true}}
	for {
		h, err := t.tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading tar header: %w", err)
		}
		t.current++
		if t.current > t.opt.MaxEntries {
			return fmt.Errorf("%w: more than %d entries", ErrHostile, t.opt.MaxEntries)
		}
		if err := t.header(h); err != nil {
			return fmt.Errorf("tar entry %q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("reading the end of the tar stream: %w", err)
	}
	return nil
}

func (o TarOptions) withDefaults() TarOptions {
	if o.MaxEntries == 0 {
		o.MaxEntries = 10_000_000
	}
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 40
	}
	if o.MaxSparse == 0 {
		o.MaxSparse = 16 << 30
	}
	if o.MaxXattrs == 0 {
		o.MaxXattrs = 1 << 20
	}
	return o
}

// seen is what a stream has said of one path so far.
type seen struct {
	children map[string]*seen
	dir      bool
	gone     bool   // a whiteout
	entry    *Entry // of a directory, as it was handed on last
}

type tarReader struct {
	tr           *tar.Reader
	opt          TarOptions
	sink         Sink
	root         *seen
	current      int
	size, sparse int64
}

func hostile(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHostile, fmt.Sprintf(format, args...))
}

// cleanName brings a name of the archive into the form of Entry.Path.
func cleanName(name string) (string, error) {
	if name == "" {
		return "", hostile("empty name")
	}
	c := path.Clean(name)
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", hostile("%q is outside of the root", name)
	}
	if c = strings.TrimLeft(c, "/"); c == "" {
		return ".", nil
	}
	if len(c) > maxPath {
		return "", hostile("name of %d bytes", len(c))
	}
	for _, part := range strings.Split(c, "/") {
		if len(strings.TrimPrefix(part, whiteoutPrefix)) > maxName {
			return "", hostile("name component of %d bytes", len(part))
		}
	}
	return c, nil
}

func (t *tarReader) header(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if !t.opt.NoWhiteouts && strings.Contains(name, whiteoutPrefix) {
		if done, err := t.whiteout(name); done || err != nil {
			return err
		}
	}
	e, err := t.entry(h, name)
	if err != nil {
		return err
	}
	if name == "." {
		if !e.IsDir() {
			return hostile("the root is no directory")
		}
		t.root.entry = e
		return t.sink.Add(e)
	}
	dir, base := split(name)
	parent, err := t.directory(dir)
	if err != nil {
		return err
	}
	old := parent.children[base]
	if e.Hardlink {
		if e.Link == name {
			return nil // the file itself; it is there, or entry would have refused
		}
		if old != nil && old.dir && strings.HasPrefix(e.Link, name+"/") {
			return hostile("hard link replaces the directory of its target")
		}
	}
	next := &seen{dir: e.IsDir()}
	if next.dir {
		next.entry = e
		if old != nil && old.dir {
			next.children = old.children
			e.Opaque = old.entry.Opaque
		}
		e.Opaque = e.Opaque || (old != nil && old.gone)
	}
	parent.set(base, next)
	return t.sink.Add(e)
}

func (s *seen) set(base string, child *seen) {
	if s.children == nil {
		s.children = map[string]*seen{}
	}
	s.children[base] = child
}

// directory finds the node of a directory, adding what the stream left out.
func (t *tarReader) directory(name string) (*seen, error) {
	cur := t.root
	if name == "." {
		return cur, nil
	}
	at := 0
	for _, part := range strings.Split(name, "/") {
		at += len(part)
		next := cur.children[part]
		switch {
		case next == nil || next.gone:
			e := t.implied(name[:at])
			e.Opaque = next != nil
			e.Implied = !e.Opaque
			if !t.opt.SkipImplied {
				if err := t.sink.Add(e); err != nil {
					return nil, err
				}
			}
			next = &seen{dir: true, entry: e}
			cur.set(part, next)
		case !next.dir:
			return nil, hostile("%q is below %q, which is no directory", name, name[:at])
		}
		cur = next
		at++
	}
	return cur, nil
}

// implied makes the entry of a directory that the stream does not mention.
func (t *tarReader) implied(name string) *Entry {
	if t.opt.Lower != nil {
		if e, err := t.opt.Lower.Lstat(name); err == nil && e.IsDir() {
			c := *e
			c.Opaque = false
			return &c
		}
	}
	return &Entry{Path: name, Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}
}

// whiteout deals with the names that a layer gives a meaning. done: it was one.
func (t *tarReader) whiteout(name string) (done bool, _ error) {
	dir, base := split(name)
	for _, part := range strings.Split(dir, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return true, nil // below .wh..wh.plnk and other bookkeeping of aufs
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, hostile("entry below the whiteout %q", part)
		}
	}
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return false, nil
	}
	if base == opaqueMarker {
		return true, t.opaque(dir)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return true, nil
	}
	target := base[len(whiteoutPrefix):]
	if target == "" || target == "." || target == ".." {
		return false, hostile("invalid whiteout name")
	}
	parent, err := t.directory(dir)
	if err != nil {
		return false, err
	}
	switch old := parent.children[target]; {
	case old == nil:
		parent.set(target, &seen{gone: true})
		return true, t.sink.Add(&Entry{Path: join(dir, target), Whiteout: true})
	case old.dir:
		return true, t.opaque(join(dir, target))
	}
	return true, nil
}

// opaque hands a directory on once more, now opaque.
func (t *tarReader) opaque(dir string) error {
	node, err := t.directory(dir)
	if err != nil {
		return err
	}
	if node.entry == nil { // the root, not mentioned so far
		node.entry = t.implied(".")
	}
	e := *node.entry
	e.Opaque = true
	node.entry = &e
	return t.sink.Add(&e)
}

// entry makes an Entry of a header.
func (t *tarReader) entry(h *tar.Header, name string) (*Entry, error) {
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, hostile("owner %d:%d", h.Uid, h.Gid)
	}
	e := &Entry{
		Path:    name,
		Mode:    uint32(h.Mode) & 0o7777,
		UID:     uint32(h.Uid),
		GID:     uint32(h.Gid),
		ModTime: h.ModTime,
	}
	var err error
	if e.Xattrs, err = t.xattrs(h); err != nil {
		return nil, err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= unix.S_IFREG
		return e, t.content(h, e)
	case tar.TypeDir:
		e.Mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		e.Mode = unix.S_IFLNK | 0o777 // what every symbolic link on Linux has
		if e.Link = h.Linkname; e.Link == "" || len(e.Link) > maxPath {
			return nil, hostile("symbolic link target of %d bytes", len(e.Link))
		}
	case tar.TypeLink:
		return e, t.hardlink(h, e)
	case tar.TypeChar, tar.TypeBlock:
		e.Mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			e.Mode = e.Mode&^unix.S_IFMT | unix.S_IFBLK
		}
		return e, device(h, e)
	case tar.TypeFifo:
		e.Mode |= unix.S_IFIFO
	default:
		return nil, fmt.Errorf("unknown type %q", h.Typeflag)
	}
	return e, nil
}

func (t *tarReader) content(h *tar.Header, e *Entry) error {
	e.Size = h.Size
	if e.Size == 0 {
		return nil
	}
	_, pax := h.PAXRecords["GNU.sparse.major"]
	if h.Typeflag == tar.TypeGNUSparse || pax || h.PAXRecords["GNU.sparse.map"] != "" {
		if t.sparse += e.Size; e.Size > t.opt.MaxSparse || t.sparse > t.opt.MaxSparse {
			return hostile("sparse files of more than %d bytes", t.opt.MaxSparse)
		}
	}
	if t.size += e.Size; e.Size > t.opt.MaxSize || t.size > t.opt.MaxSize {
		return hostile("content of more than %d bytes", t.opt.MaxSize)
	}
	e.Content = &streamed{t: t, number: t.current}
	return nil
}

// hardlink checks that the target came before and is no directory. Its parents are directories
// of this stream then, so that nothing on the way is a symbolic link.
func (t *tarReader) hardlink(h *tar.Header, e *Entry) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return err
	}
	node := t.root
	for _, part := range strings.Split(target, "/") {
		if node = node.children[part]; node == nil {
			return hostile("hard link to %q, which is not in the layer", h.Linkname)
		}
	}
	if node.dir || node.gone {
		return hostile("hard link to %q, which is no file", h.Linkname)
	}
	e.Mode |= unix.S_IFREG
	e.Hardlink, e.Link = true, target
	return nil
}

func device(h *tar.Header, e *Entry) error {
	if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
		return hostile("device number %d:%d", h.Devmajor, h.Devminor)
	}
	if e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor); isWhiteout(e) {
		return hostile("character device 0:0")
	}
	return nil
}

// plainTypes are regular files and directories.
var plainTypes = map[byte]bool{tar.TypeReg: true, tar.TypeCont: true, tar.TypeGNUSparse: true, tar.TypeDir: true}

func (t *tarReader) xattrs(h *tar.Header) (map[string]string, error) {
	var attrs map[string]string
	size := 0
	for k, v := range h.PAXRecords {
		key, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !keepXattr(key) {
			continue
		}
		if plain := plainTypes[h.Typeflag]; !plain && !strings.HasPrefix(key, "trusted.") {
			continue // no filesystem keeps others on links and devices
		}
		if len(key) > maxName {
			return nil, hostile("extended attribute name of %d bytes", len(key))
		}
		if size += len(key) + len(v); size > t.opt.MaxXattrs {
			return nil, hostile("extended attributes of more than %d bytes", t.opt.MaxXattrs)
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[key] = v
	}
	return attrs, nil
}

// streamed is the content of the entry that a tarReader stands at.
type streamed struct {
	t      *tarReader
	number int
	opened bool
}

func (s *streamed) Open() (io.ReadCloser, error) {
	if s.opened || s.number != s.t.current {
		return nil, errors.New("the content of a tar stream can be read once, while its entry is added")
	}
	s.opened = true
	return io.NopCloser(s.t.tr), nil
}
