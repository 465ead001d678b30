package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// TarOptions bounds what [ReadTar] and [ReadArchive] accept. Zero fields take the defaults given.
type TarOptions struct {
	MaxMemory int64 // bytes that the entries' names, links and attributes take, with what each entry needs besides; 768 MiB
	MaxSize   int64 // bytes of content in all; 1 TiB
	MaxSparse int64 // bytes of content in all that come from sparse files, whose holes cost nothing to send; 16 GiB
	MaxXattrs int   // bytes of the extended attributes of one entry; 1 MiB
	// Lower is what lies below the layer, if known: parent directories that the archive does not
	// mention take their attributes from there. Otherwise they belong to root with mode 0755.
	Lower Tree
}

const (
	maxName = 255  // NAME_MAX
	maxPath = 4095 // PATH_MAX without its NUL

	// entryMemory is what is counted for an entry besides its strings: whoever reads an archive keeps
	// a record of each, the index of a layer the largest.
	entryMemory = 256
)

// ReadArchive reads an uncompressed tar stream that is no layer, and which may be hostile, to its end and
// hands it to a sink, which it does not close. Names and the targets of hard links are relative, clean and
// inside of the root; that is all that is promised. Where a name leads through symbolic links, which
// parents are missing and whether the target of a hard link is there only the sink can tell, who knows
// what the archive is unpacked onto. ".wh." names are names like any others.
//
// Too much of anything is [ErrHostile]. The Content of an entry can be opened once, until Add returns.
func ReadArchive(r io.Reader, opt TarOptions, sink Sink) error {
	return newTarReader(r, opt).read(r, func(t *tarReader, h *tar.Header, name string) error {
		e, err := t.entry(h, name)
		if err != nil || name == "." && !e.IsDir() { // the root stays what it is, as in containerd
			return err
		}
		if e.Hardlink && e.Link == name {
			return nil
		}
		return sink.Add(e)
	})
}

// tarReader reads headers within its bounds.
type tarReader struct {
	tr                   *tar.Reader
	opt                  TarOptions
	current              int // number of the header
	size, sparse, memory int64
}

func newTarReader(r io.Reader, opt TarOptions) *tarReader {
	return &tarReader{tr: tar.NewReader(r), opt: opt.withDefaults()}
}

// read calls fn for each header, with its clean name, and reads r to its end.
func (t *tarReader) read(r io.Reader, fn func(*tarReader, *tar.Header, string) error) error {
	for {
		h, err := t.tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading tar header: %w", err)
		}
		t.current++
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := cleanName(h.Name)
		if err == nil {
			err = t.use(len(name) + len(h.Linkname))
		}
		if err == nil {
			err = fn(t, h, name)
		}
		if err != nil {
			return fmt.Errorf("tar entry %q: %w", shorten(h.Name), err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("reading the end of the tar stream: %w", err)
	}
	return nil
}

// use counts the memory of one more entry, whose strings have n bytes.
func (t *tarReader) use(n int) error {
	if t.memory += int64(n) + entryMemory; t.memory > t.opt.MaxMemory {
		return hostile("names and attributes of the entries take more than %d bytes", t.opt.MaxMemory)
	}
	return nil
}

// shorten keeps a name that an error tells from filling the screen.
func shorten(name string) string {
	if len(name) > maxPath {
		return name[:maxPath] + "..."
	}
	return name
}

func (o TarOptions) withDefaults() TarOptions {
	if o.MaxMemory == 0 {
		o.MaxMemory = 768 << 20
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

func hostile(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHostile, fmt.Sprintf(format, args...))
}

// cleanName brings a name of the archive into the form of Entry.Path. As with containerd and BuildKit,
// ".." does not lead out of the root, and no name is that of the root.
func cleanName(name string) (string, error) {
	c := strings.TrimPrefix(path.Clean("/"+name), "/")
	if c == "" {
		return ".", nil
	}
	if len(c) > maxPath {
		return "", hostile("name of %d bytes", len(c))
	}
	for part, rest := "", c; rest != ""; {
		part, rest, _ = strings.Cut(rest, "/")
		if len(strings.TrimPrefix(part, whiteoutPrefix)) > maxName {
			return "", hostile("name component of %d bytes", len(part))
		}
	}
	return c, nil
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
		if e.Link = strings.Clone(h.Linkname); e.Link == "" || len(e.Link) > maxPath {
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

func (t *tarReader) hardlink(h *tar.Header, e *Entry) (err error) {
	if h.Linkname == "" {
		return hostile("hard link without a target")
	}
	e.Mode |= unix.S_IFREG
	e.Hardlink = true
	e.Link, err = cleanName(h.Linkname)
	return err
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
		attrs[strings.Clone(key)] = strings.Clone(v) // of h they would keep all of the header
	}
	if t.memory += int64(size); t.memory > t.opt.MaxMemory {
		return nil, hostile("names and attributes of the entries take more than %d bytes", t.opt.MaxMemory)
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
