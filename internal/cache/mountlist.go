package cache

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// A cache mount is carried as a manifest. Its config is a list of files, its layers are packs: contents of files, one behind the other. Both are
// compressed by zstd. A list is lines of JSON: the first one says when the mount was looked at and how long each pack is, uncompressed; each other one
// is a file, with the pack and the place of its content. Contents are there once, and packs stay as they are: after a change there is one more of them.

// The types of what a mount is made of.
const (
	artifactMount  = "application/vnd.slipway.mount.v1+json"
	mediaMountList = "application/vnd.slipway.mount.list.v1+zstd"
	mediaMountPack = "application/vnd.slipway.mount.pack.v1+zstd"
)

// What a mount may be that somebody else has listed.
const (
	maxList      = 256 << 20 // bytes of a list, compressed
	maxListLine  = 64 << 10  // bytes of a line of it
	maxListBytes = 512 << 20 // bytes of all lines
	maxMounted   = 1 << 20   // files
	maxPacks     = 8000      // as many as a manifest can name
	maxPackBytes = 1 << 40   // bytes of a pack, uncompressed
	maxMount     = 1 << 40   // bytes of all files
)

// mountBits are the permissions of files in mounts that are carried: no set-ID bits. contextBits are those of a context, where COPY keeps them.
const (
	mountBits   = 0o1777
	contextBits = 0o7777
)

// carriedVersion is that of lists.
const carriedVersion = 1

// listHead is the first line of a list.
type listHead struct {
	Version int       `json:"slipway.mount"`
	Created time.Time `json:"created"`
	Packs   []int64   `json:"packs"`
}

// carriedFile is a file of a mount: a directory, a regular file or a symbolic link. Others are not carried.
type carriedFile struct {
	Path   string        `json:"path"`
	Mode   uint32        `json:"mode"` // type and permissions, no set-ID bits
	UID    uint32        `json:"uid,omitempty"`
	GID    uint32        `json:"gid,omitempty"`
	Mtime  int64         `json:"mtime"` // nanoseconds since the epoch
	Size   int64         `json:"size,omitempty"`
	Link   string        `json:"link,omitempty"`   // of a symbolic link: its target, which nobody here follows
	Digest digest.Digest `json:"digest,omitempty"` // of the content, of files that have one
	Pack   int           `json:"pack,omitempty"`   // that has the content
	Offset int64         `json:"offset,omitempty"` // where it begins there, uncompressed
}

func (f *carriedFile) isDir() bool        { return f.Mode&unix.S_IFMT == unix.S_IFDIR }
func (f *carriedFile) hasBytes() bool     { return f.Mode&unix.S_IFMT == unix.S_IFREG && f.Size > 0 }
func (f *carriedFile) modTime() time.Time { return time.Unix(0, f.Mtime) }

// same reports whether two files are the same one, wherever their contents are.
func (f carriedFile) same(o carriedFile) bool {
	f.Pack, f.Offset, o.Pack, o.Offset = 0, 0, 0, 0
	if f.isDir() { // its time changes with what is left out
		f.Mtime, o.Mtime = 0, 0
	}
	return f == o
}

// carried is a cache mount as it is carried.
type carried struct {
	created time.Time
	files   []carriedFile // parents before children, "." first
	packs   []carriedPack
}

// carriedPack is a pack.
type carriedPack struct {
	blob ocispec.Descriptor
	size int64 // uncompressed
}

// entry is the file without its content.
func (f *carriedFile) entry() *layer.Entry {
	return &layer.Entry{Path: f.Path, Mode: f.Mode, UID: f.UID, GID: f.GID, Size: f.Size, ModTime: f.modTime(), Link: f.Link, Digest: f.Digest}
}

// encode writes the list.
func (c *carried) encode(w io.Writer) error {
	z, err := layer.Compress(w, layer.Encoding{Compression: layer.Zstd})
	if err != nil {
		return err
	}
	b := bufio.NewWriter(z)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	head := listHead{Version: carriedVersion, Created: c.created, Packs: []int64{}}
	for _, p := range c.packs {
		head.Packs = append(head.Packs, p.size)
	}
	if err := enc.Encode(head); err != nil {
		return err
	}
	for i := range c.files {
		if err := enc.Encode(&c.files[i]); err != nil {
			return err
		}
	}
	return errors.Join(b.Flush(), z.Close())
}

// decodeMount reads a list, of a manifest that has some packs, and checks all that it says. bits are the permissions that files may have.
func decodeMount(r io.Reader, packs []ocispec.Descriptor, bits uint32) (*carried, error) {
	z, err := layer.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, maxListLine)
	c, left := &carried{}, maxListBytes
	for n := 0; lines.Scan(); n++ {
		if left -= len(lines.Bytes()); left < 0 {
			return nil, fmt.Errorf("the list of its files has more than %d bytes", maxListBytes)
		}
		if n == 0 {
			err = c.head(lines.Bytes(), packs)
		} else {
			err = c.add(lines.Bytes())
		}
		if err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the list of its files: %w", err)
	}
	if len(c.files) == 0 {
		return nil, errors.New("the list of its files has none")
	}
	return c, newChecker(c, bits).all()
}

func (c *carried) head(line []byte, packs []ocispec.Descriptor) error {
	var h listHead
	if err := json.Unmarshal(line, &h); err != nil {
		return fmt.Errorf("decoding the list of its files: %w", err)
	}
	switch {
	case h.Version != carriedVersion:
		return fmt.Errorf("it is of version %d, which this slipway cannot read (want %d)", h.Version, carriedVersion)
	case len(h.Packs) != len(packs):
		return fmt.Errorf("its list has %d packs, its manifest %d", len(h.Packs), len(packs))
	}
	c.created = h.Created
	for i, size := range h.Packs {
		if size < 0 || size > maxPackBytes {
			return fmt.Errorf("a pack of %d bytes cannot be", size)
		}
		c.packs = append(c.packs, carriedPack{packs[i], size})
	}
	return nil
}

func (c *carried) add(line []byte) error {
	if len(c.files) == maxMounted {
		return fmt.Errorf("it has more than %d files", maxMounted)
	}
	var f carriedFile
	if err := json.Unmarshal(line, &f); err != nil {
		return fmt.Errorf("decoding the list of its files: %w", err)
	}
	c.files = append(c.files, f)
	return nil
}

// checker looks at what a list says, which is a claim of whoever wrote it.
type checker struct {
	*carried
	bits        uint32 // permissions that files may have
	dirs, names map[string]bool
	at          map[digest.Digest]carriedFile // where contents are
	bytes       int64
}

func newChecker(c *carried, bits uint32) *checker {
	return &checker{carried: c, bits: bits, dirs: map[string]bool{}, names: map[string]bool{}, at: map[digest.Digest]carriedFile{}}
}

func (c *checker) all() error {
	for i := range c.files {
		if err := c.file(&c.files[i]); err != nil {
			return fmt.Errorf("file %q: %w", c.files[i].Path, err)
		}
	}
	return nil
}

// file checks one file: it lies in the mount, in a directory that came before, is of a kind that is carried, and its content is in a pack.
func (c *checker) file(f *carriedFile) error {
	if err := c.place(f); err != nil {
		return err
	}
	if f.Mode&^(unix.S_IFMT|c.bits) != 0 {
		return fmt.Errorf("mode %#o has more than permissions", f.Mode)
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		c.dirs[f.Path] = true
	case unix.S_IFLNK:
		if f.Link == "" || len(f.Link) >= unix.PathMax || strings.Contains(f.Link, "\x00") {
			return errors.New("it is a link to nothing that can be named")
		}
	case unix.S_IFREG:
		return c.content(f)
	default:
		return fmt.Errorf("mode %#o is neither a directory, a file nor a link", f.Mode)
	}
	if f.Size != 0 || f.Digest != "" {
		return errors.New("it has a content, and is no file")
	}
	return nil
}

// place checks where a file is.
func (c *checker) place(f *carriedFile) error {
	first := len(c.names) == 0
	switch {
	case first && (f.Path != "." || !f.isDir()):
		return errors.New("the first one is not the directory itself")
	case c.names[f.Path]:
		return errors.New("it is there twice")
	case first:
	case f.Path != path.Clean(f.Path) || len(f.Path) >= unix.PathMax || !c.dirs[path.Dir(f.Path)]:
		return errors.New("it does not lie in a directory of the mount")
	case !layer.IsName(path.Base(f.Path)) || len(path.Base(f.Path)) > unix.NAME_MAX:
		return errors.New("it has no name")
	}
	c.names[f.Path] = true
	return nil
}

func (c *checker) content(f *carriedFile) error {
	if f.Size < 0 || f.Size > maxMount-c.bytes {
		return fmt.Errorf("a size of %d bytes cannot be", f.Size)
	}
	c.bytes += f.Size
	if f.Size == 0 {
		return nil
	}
	if err := f.Digest.Validate(); err != nil || f.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("its digest is %q", f.Digest)
	}
	if f.Pack < 0 || f.Pack >= len(c.packs) || f.Offset < 0 || f.Offset > c.packs[f.Pack].size-f.Size {
		return errors.New("its content is in no pack")
	}
	if other, ok := c.at[f.Digest]; ok && (other.Pack != f.Pack || other.Offset != f.Offset || other.Size != f.Size) {
		return errors.New("its content is in two places")
	}
	c.at[f.Digest] = *f
	return nil
}
