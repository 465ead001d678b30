package layer

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
)

// copyBuffers are shared by everything here that moves content through user space.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

const copyBuffer = 256 << 10

// TarWriter is the [Sink] that makes the one tar form of a layer: the same entries always give
// the same bytes. Times are whole seconds (rounded down) as in Docker's layers, names of owners
// are left out, the headers are ustar wherever that can say everything and PAX otherwise, never
// GNU. Whiteouts are empty ".wh." files of the epoch, an opaque directory is followed by its
// ".wh..wh..opq". Sockets cannot be archived and are left out.
type TarWriter struct {
	tw     *tar.Writer
	out    *countingWriter
	index  *IndexWriter // nil: not wanted
	header tar.Header   // in hand
	prefix string       // of all names
}

// countingWriter knows how many bytes went through it.
type countingWriter struct {
	io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

// NewTarWriter gives a sink that writes to w, which stays the caller's to close.
func NewTarWriter(w io.Writer) *TarWriter {
	out := &countingWriter{Writer: w}
	return &TarWriter{tw: tar.NewWriter(out), out: out}
}

// NewIndexedTarWriter is [NewTarWriter] with an index that is made on the way: it has the digest
// and the place of every content. A content that does not have the digest that its entry names is
// an error. tmp is the directory of [NewIndexWriter].
func NewIndexedTarWriter(w io.Writer, tmp string) (*TarWriter, *IndexWriter) {
	t := NewTarWriter(w)
	t.index = NewIndexWriter(tmp)
	return t, t.index
}

// Below writes a directory by a name that ends in a slash, which all other names begin with then.
func (t *TarWriter) Below(name string, dir *Entry) error {
	h := &tar.Header{}
	if err := fillHeader(h, dir); err != nil {
		return err
	}
	h.Name, t.prefix = name, name
	return t.tw.WriteHeader(h)
}

// Close writes the end of the archive.
func (t *TarWriter) Close() error { return t.tw.Close() }

// Add writes one entry. A file that is shorter or longer by now than its entry says is an error.
func (t *TarWriter) Add(e *Entry) error {
	if err := t.add(e); err != nil {
		return fmt.Errorf("archiving %q: %w", e.Path, err)
	}
	return nil
}

func (t *TarWriter) add(e *Entry) error {
	dir, base := split(e.Path)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return errors.New("names that start with \".wh.\" cannot be stored in a layer: rename the file")
	}
	if e.Whiteout {
		if err := t.noted(e, -1); err != nil {
			return err
		}
		return t.tw.WriteHeader(marker(join(dir, whiteoutPrefix+base)))
	}
	if e.Type() == unix.S_IFSOCK {
		return nil
	}
	h := &t.header
	if err := fillHeader(h, e); err != nil {
		return err
	}
	if h.Name = t.prefix + h.Name; h.Typeflag == tar.TypeLink {
		h.Linkname = t.prefix + h.Linkname
	}
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	if e.IsDir() && e.Opaque {
		if err := t.noted(e, -1); err != nil {
			return err
		}
		return t.tw.WriteHeader(marker(join(e.Path, opaqueMarker)))
	}
	if h.Typeflag != tar.TypeReg || e.Size == 0 {
		return t.noted(e, -1)
	}
	if t.index == nil {
		return t.content(e, t.tw)
	}
	at := t.out.n
	if l, ok := e.Content.(*loaded); ok {
		return t.loaded(e, l, at)
	}
	if e.Digest != "" && Settled(e.Content) {
		if err := t.content(e, t.tw); err != nil {
			return err
		}
		return t.index.add(e, at)
	}
	began, hash := time.Now(), sha256.New()
	if err := t.content(e, io.MultiWriter(t.tw, hash)); err != nil {
		return err
	}
	c := *e
	switch c.Digest = digest.NewDigest(digest.SHA256, hash); e.Digest {
	case c.Digest:
	case "":
		remember(e.Content, began, c.Digest)
	default:
		return fmt.Errorf("file changed while being read: its digest was %s and is %s now", e.Digest, c.Digest)
	}
	return t.index.add(&c, at)
}

// noted notes an entry in the index, if there is one.
func (t *TarWriter) noted(e *Entry, at int64) error {
	if t.index == nil {
		return nil
	}
	return t.index.add(e, at)
}

// loaded writes content that was read ahead, and whose digest was checked then.
func (t *TarWriter) loaded(e *Entry, l *loaded, at int64) error {
	data, sum, err := l.wait()
	if err != nil {
		return err
	}
	if _, err := t.tw.Write(data); err != nil {
		return err
	}
	c := *e
	c.Digest = sum
	return t.index.add(&c, at)
}

// marker is the header of an empty file that only its name matters of.
func marker(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)}
}

// fillHeader makes h the header of an entry.
func fillHeader(h *tar.Header, e *Entry) error {
	*h = tar.Header{
		Name:    e.Path,
		Mode:    int64(e.Perm()),
		Uid:     int(e.UID),
		Gid:     int(e.GID),
		ModTime: time.Unix(e.ModTime.Unix(), 0),
	}
	switch {
	case e.Hardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
		return nil
	case e.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case e.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case e.IsSymlink():
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
	case e.Type() == unix.S_IFCHR:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case e.Type() == unix.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	case e.Type() == unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return fmt.Errorf("unknown file type %#o", e.Type())
	}
	if len(e.Xattrs) > 0 {
		h.Format = tar.FormatPAX
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs {
			h.PAXRecords[paxXattr+k] = v
		}
	}
	return nil
}

func (t *TarWriter) content(e *Entry, w io.Writer) error {
	r, err := OpenContent(e)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	// The bare Read keeps io.CopyBuffer from going around the buffer.
	n, err := io.CopyBuffer(w, struct{ io.Reader }{io.LimitReader(SkipHoles(r, e.Size), e.Size)}, *buf)
	if err != nil {
		return err
	}
	if n != e.Size {
		return fmt.Errorf("file changed while being read: got %d bytes, want %d", n, e.Size)
	}
	if err := atEnd(r, e.Size); err != nil {
		return err
	}
	return unchanged(e.Content, r)
}

// atEnd checks that a file that was read to its expected size has no more.
func atEnd(r io.Reader, size int64) error {
	if f, ok := r.(*os.File); ok { // one cheap system call instead of a read of a large buffer
		if st, err := f.Stat(); err == nil && st.Size() != size {
			return fmt.Errorf("file changed while being read: got %d bytes, want %d", st.Size(), size)
		}
		return nil
	}
	var one [1]byte
	if n, _ := io.ReadFull(r, one[:]); n > 0 {
		return fmt.Errorf("file changed while being read: got more than %d bytes", size)
	}
	return nil
}
