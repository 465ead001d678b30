package layer

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a listing's entry has besides its name, mode, owner, size and time.
const (
	listedLink = 1 << iota
	listedDevice
	listedXattrs
	listedDigest
	listedNames // it has several
	listedContent
	listedWhiteout
	listedOpaque
	listedImplied
)

// AppendListing encodes what is in a directory of a tree that [OpenDir] gave. It is to be read by the same
// program, with [ReadListing].
func AppendListing(b []byte, dir string, list []*Entry) []byte {
	size := 0
	for _, e := range list {
		size += len(e.Path) - inDir(dir)
	}
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(len(list))), uint64(size))
	for _, e := range list {
		b = appendString(b, e.Path[inDir(dir):])
	}
	for _, e := range list {
		b = appendListed(b, e)
	}
	return b
}

// inDir is where in the path of an entry of a directory its name begins.
func inDir(dir string) int {
	if dir == "." {
		return 0
	}
	return len(dir) + 1
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func listedFlags(e *Entry) (flags uint64) {
	for _, f := range []struct {
		set bool
		bit uint64
	}{
		{e.Link != "", listedLink}, {e.Major != 0 || e.Minor != 0, listedDevice}, {len(e.Xattrs) > 0, listedXattrs},
		{e.Digest != "", listedDigest}, {e.Nlink > 0, listedNames}, {e.Content != nil, listedContent},
		{e.Whiteout, listedWhiteout}, {e.Opaque, listedOpaque}, {e.Implied, listedImplied},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	return flags
}

func appendListed(b []byte, e *Entry) []byte {
	flags := listedFlags(e)
	for _, v := range []uint64{flags, uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Size)} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	if flags&listedLink != 0 {
		b = appendString(b, e.Link)
	}
	if flags&listedDevice != 0 {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(e.Major)), uint64(e.Minor))
	}
	if flags&listedXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, k := range sortedKeys(e.Xattrs) {
			b = appendString(appendString(b, k), e.Xattrs[k])
		}
	}
	if flags&listedDigest != 0 {
		sum, _ := hex.DecodeString(e.Digest.Encoded()) // a digest is hexadecimal
		b = append(b, sum...)
	}
	if flags&listedNames != 0 {
		for _, v := range []uint64{e.Dev, e.Inode, e.Nlink} {
			b = binary.AppendUvarint(b, v)
		}
	}
	if flags&listedContent != 0 {
		s := e.Content.(Stamped).Stamp()
		for _, v := range []uint64{s.Dev, s.Ino, uint64(s.Mtime), uint64(s.Ctime)} {
			b = binary.AppendUvarint(b, v)
		}
	}
	return b
}

// ReadListing decodes what [AppendListing] gave of the directory of a tree.
func ReadListing(b []byte, t Tree, dir string) ([]*Entry, error) {
	d := &indexDecoder{b: b}
	n := d.uint()
	size := d.uint()
	if d.err != nil || n > uint64(len(b)) || size > uint64(len(b)) {
		return nil, errors.New("reading listing: it is damaged")
	}
	var all strings.Builder
	all.Grow(int(size) + int(n)*inDir(dir))
	ends := make([]int, n)
	for i := range ends {
		if dir != "." {
			all.WriteString(dir)
			all.WriteByte('/')
		}
		all.Write(d.bytes())
		ends[i] = all.Len()
	}
	entries, files, out := make([]Entry, n), make([]hostFile, n), make([]*Entry, n)
	from := 0
	for i := range entries {
		out[i] = &entries[i]
		out[i].Path, from = all.String()[from:ends[i]], ends[i]
		d.listed(out[i], &files[i], t)
	}
	if d.err != nil {
		return nil, fmt.Errorf("reading listing: %w", d.err)
	}
	return out, nil
}

// listed decodes an entry; file is its content, if it has one.
func (d *indexDecoder) listed(e *Entry, file *hostFile, t Tree) {
	flags := d.uint()
	e.Whiteout, e.Opaque, e.Implied = flags&listedWhiteout != 0, flags&listedOpaque != 0, flags&listedImplied != 0
	e.Mode, e.UID, e.GID, e.Size = uint32(d.uint()), uint32(d.uint()), uint32(d.uint()), int64(d.uint())
	sec := d.int()
	e.ModTime = time.Unix(sec, int64(d.uint()))
	if flags&listedLink != 0 {
		e.Link = d.str()
	}
	if flags&listedDevice != 0 {
		e.Major, e.Minor = uint32(d.uint()), uint32(d.uint())
	}
	if flags&listedXattrs != 0 {
		e.Xattrs = map[string]string{}
		for n := d.uint(); n > 0 && d.err == nil; n-- {
			k := d.str()
			e.Xattrs[k] = d.str()
		}
	}
	if flags&listedDigest != 0 {
		e.Digest = SHA256Digest(d.take(32))
	}
	if flags&listedNames != 0 {
		e.Dev, e.Inode, e.Nlink = d.uint(), d.uint(), d.uint()
	}
	if flags&listedContent != 0 {
		s := Stamp{Dev: d.uint(), Ino: d.uint(), Size: e.Size, Mtime: int64(d.uint()), Ctime: int64(d.uint())}
		*file = hostFile{tree: t.(*dirTree), path: e.Path, stamp: s}
		e.Content = file
	}
}

// TempFile makes a file without a name in a directory, which is made when it is missing; "" is the system's.
func TempFile(dir string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	}
	if err == nil {
		return f, nil
	}
	if f, err = os.CreateTemp(dir, "slipway-"); err != nil { // the filesystem has no such files
		return nil, err
	}
	return f, os.Remove(f.Name())
}
