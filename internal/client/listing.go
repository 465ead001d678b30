package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// What a client may send of a directory. A million files take some 100 MB of a listing; of each directory something is held
// in memory. Tests have less.
var (
	maxEntries uint32 = 1 << 24
	maxListing int64  = 2 << 30   // bytes, on the disk
	maxHeld    int64  = 128 << 20 // bytes, in memory: of directories, and of files with several names
)

const (
	maxPath = 4095 // as in Linux
	maxName = 255
	maxSize = 1 << 43 // of a file
)

// errHostile marks what no client sends that walks a directory.
var errHostile = errors.New("the client sends what no directory can be")

func hostile(format string, args ...any) error {
	return &failure{errHostile.Error() + ": " + fmt.Sprintf(format, args...), errHostile}
}

// metadataFile is where BuildKit puts what it is told of files whose contents it does not want.
const metadataFile = ".fsutil-metadata"

// listing takes the files of a directory in the order in which they are walked.
type listing struct {
	index *layer.IndexWriter
	order fsutil.Validator
	n     uint32 // entries that came, which are numbered by that
	bytes int64
	held  int64
	links []link

	metadata *metadataList // nil: contents are wanted
}

// link is another name of a file.
type link struct {
	name, target string
	n            uint32
}

func newListing(tmp string, m *metadataList) (*listing, error) {
	l := &listing{index: layer.NewIndexWriter(tmp), metadata: m}
	return l, l.index.Put(&layer.IndexEntry{Entry: layer.Entry{Path: ".", Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}, Offset: -1})
}

// add takes the next entry.
func (l *listing) add(st *types.Stat) error {
	n := l.n
	if l.n++; l.n > maxEntries {
		return fmt.Errorf("it has more than %d files: leave some out in .dockerignore", maxEntries)
	}
	if l.bytes += int64(st.SizeVT()); l.bytes > maxListing {
		return fmt.Errorf("the names and attributes of its files take more than %d bytes: leave some out in .dockerignore", maxListing)
	}
	if err := l.check(st); err != nil {
		return err
	}
	e, err := entryOf(st)
	if err != nil {
		return err
	}
	if l.metadata != nil {
		return l.metadata.add(l, e, st, n)
	}
	return l.put(e, n)
}

// put writes an entry down.
func (l *listing) put(e *layer.Entry, n uint32) error {
	switch {
	case e.Hardlink:
		l.links = append(l.links, link{name: e.Path, target: e.Link, n: n})
		l.held += int64(len(e.Path)+len(e.Link)) + 256
	case e.IsDir():
		l.held += int64(len(e.Path)) + 256
	}
	if l.held > maxHeld {
		return errors.New("it has too many directories or hard links: leave some out in .dockerignore")
	}
	return l.index.Put(&layer.IndexEntry{Entry: *e, Offset: int64(n)})
}

// check looks at the name of an entry, and where it comes.
func (l *listing) check(st *types.Stat) error {
	p := st.Path
	switch {
	case len(p) > maxPath:
		return hostile("a path of %d bytes", len(p))
	case p == "" || p == "." || strings.Contains(p, "\x00"):
		return hostile("the path %q", p)
	case len(path.Base(p)) > maxName:
		return hostile("a name of %d bytes", len(path.Base(p)))
	case len(st.Linkname) > maxPath || strings.Contains(st.Linkname, "\x00"):
		return hostile("%q is a link to %d bytes", p, len(st.Linkname))
	}
	if err := l.order.HandleChange(fsutil.ChangeKindAdd, p, &fsutil.StatInfo{Stat: st}, nil); err != nil {
		var pathError *os.PathError
		if errors.As(err, &pathError) {
			return hostile("%s: %q", pathError.Op, p)
		}
		return hostile("%q does not come where a walk has it", p)
	}
	return nil
}

// entryOf makes an entry of what a client says. Extended attributes are left out, as those of a directory of this machine are.
func entryOf(st *types.Stat) (*layer.Entry, error) {
	mode, ok := unixMode(fs.FileMode(st.Mode))
	if !ok {
		return nil, hostile("%q has mode %v", st.Path, fs.FileMode(st.Mode))
	}
	e := &layer.Entry{Path: st.Path, Mode: mode, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(0, st.ModTime)}
	switch e.Type() {
	case unix.S_IFLNK:
		if e.Link = st.Linkname; e.Link == "" {
			return nil, hostile("%q is a link to nothing", st.Path)
		}
		return e, nil
	case unix.S_IFDIR:
		return e, nil
	case unix.S_IFCHR, unix.S_IFBLK:
		if st.Devmajor < 0 || st.Devmajor > 0xfff || st.Devminor < 0 || st.Devminor > 0xfffff {
			return nil, hostile("%q is device %d:%d", st.Path, st.Devmajor, st.Devminor)
		}
		e.Major, e.Minor = uint32(st.Devmajor), uint32(st.Devminor)
	}
	if st.Linkname != "" {
		e.Hardlink, e.Link = true, st.Linkname
		return e, nil
	}
	if e.IsRegular() {
		if st.Size < 0 || st.Size > maxSize {
			return nil, hostile("%q has %d bytes", st.Path, st.Size)
		}
		e.Size = st.Size
	}
	return e, nil
}

// unixMode is a mode of Go's in the kernel's form.
func unixMode(m fs.FileMode) (uint32, bool) {
	mode := uint32(m.Perm())
	for _, bit := range []struct {
		of fs.FileMode
		is uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if m&bit.of != 0 {
			mode |= bit.is
		}
	}
	types := map[fs.FileMode]uint32{
		0: unix.S_IFREG, fs.ModeDir: unix.S_IFDIR, fs.ModeSymlink: unix.S_IFLNK, fs.ModeNamedPipe: unix.S_IFIFO, fs.ModeSocket: unix.S_IFSOCK,
		fs.ModeDevice: unix.S_IFBLK, fs.ModeDevice | fs.ModeCharDevice: unix.S_IFCHR,
	}
	kind, ok := types[m.Type()]
	return mode | kind, ok
}

// finish ends the listing.
func (l *listing) finish() (*layer.IndexFile, error) {
	if l.metadata != nil {
		e, err := l.metadata.finish()
		if err == nil {
			err = l.index.Put(&layer.IndexEntry{Entry: *e, Offset: metadataNumber})
		}
		if err != nil {
			return nil, err
		}
	}
	index, err := l.index.File()
	if err != nil {
		return nil, err
	}
	return index, l.checkLinks(index.Lookup())
}

// checkLinks sees that files with several names are files, which came before.
func (l *listing) checkLinks(of func(name string) (*layer.IndexEntry, error)) error {
	slices.SortFunc(l.links, func(a, b link) int { return strings.Compare(a.target, b.target) }) // directory by directory
	for _, k := range l.links {
		e, err := of(k.target)
		if err != nil {
			return err
		}
		if e == nil || e.Hardlink || e.IsDir() || e.IsSymlink() || e.Offset >= int64(k.n) {
			return hostile("%q is another name of %q, which is no file that came before", k.name, k.target)
		}
	}
	return nil
}

// metadataList is what BuildKit keeps of files whose contents are not wanted: a file with the attributes of all.
type metadataList struct {
	wanted  *patternmatcher.PatternMatcher // files whose contents are wanted; nil: none
	file    *os.File
	size    int64
	buf     []byte
	parents []parent // of the entry in hand, that were not put
}

// parent is a directory that is there when something in it is wanted.
type parent struct {
	entry *layer.Entry
	n     uint32
}

// metadataNumber is the number of the file, which nobody is asked for.
const metadataNumber = 1 << 40

func newMetadataList(tmp string, wanted []string) (*metadataList, error) {
	m := &metadataList{}
	var err error
	if len(wanted) > 0 {
		if m.wanted, err = patternmatcher.New(wanted); err != nil {
			return nil, err
		}
	}
	m.file, err = layer.TempFile(tmp)
	return m, err
}

// add writes down what is known of an entry, and puts it where its content is wanted.
func (m *metadataList) add(l *listing, e *layer.Entry, st *types.Stat, n uint32) error {
	if e.Path == metadataFile {
		return nil
	}
	size := st.SizeVT()
	m.buf = binary.LittleEndian.AppendUint32(m.buf, uint32(size))
	at := len(m.buf)
	m.buf = append(m.buf, make([]byte, size)...)
	if _, err := st.MarshalToSizedBufferVT(m.buf[at:]); err != nil {
		return err
	}
	if len(m.buf) >= 256<<10 {
		if err := m.flush(); err != nil {
			return err
		}
	}
	for len(m.parents) > 0 && !strings.HasPrefix(e.Path, m.parents[len(m.parents)-1].entry.Path+"/") {
		m.parents = m.parents[:len(m.parents)-1]
	}
	wanted := false
	if m.wanted != nil {
		ok, err := m.wanted.MatchesOrParentMatches(e.Path)
		wanted = err == nil && ok
	}
	if !wanted {
		if e.IsDir() {
			m.parents = append(m.parents, parent{e, n})
		}
		return nil
	}
	for _, p := range m.parents {
		if err := l.put(p.entry, p.n); err != nil {
			return err
		}
	}
	m.parents = m.parents[:0]
	return l.put(e, n)
}

func (m *metadataList) flush() error {
	n, err := m.file.Write(m.buf)
	m.size += int64(n)
	m.buf = m.buf[:0]
	return err
}

// finish gives the entry of the file.
func (m *metadataList) finish() (*layer.Entry, error) {
	if err := m.flush(); err != nil {
		return nil, err
	}
	return &layer.Entry{Path: metadataFile, Mode: unix.S_IFREG | 0o644, Size: m.size, ModTime: time.Unix(0, 0)}, nil
}
