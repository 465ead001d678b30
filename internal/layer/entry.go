// Package layer holds the vocabulary of filesystem changes and the conversions between the
// forms that a layer can have.
//
// # Structure
//
// A layer is an immutable set of filesystem changes. Whatever its form, it is read as a
// sequence of [Entry] values, parents before children, and written by handing the same
// sequence to a [Sink]. So each conversion is a source joined to a sink: directory to tar,
// tar to directory, file-operation plan to either. A [Tree] is the other way of looking: a
// read-only root filesystem that is asked about single paths.
//
// # Caveats
//
// Paths are always relative to the root, slash-separated and clean; "." is the root itself.
package layer

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ID names a layer within one store. It says nothing of the layer's contents.
type ID string

// Snapshot is a root filesystem as an ordered list of layers, base first. The empty snapshot
// is an empty root ("scratch").
type Snapshot []ID

// Distinct leaves out all but the last occurrence of each layer, which gives the same root
// filesystem: the lower one hides nothing that the upper one does not hide. Overlayfs refuses to
// stack a directory twice.
func (s Snapshot) Distinct() Snapshot {
	var out Snapshot
	for i, id := range s {
		if !slices.Contains(s[i+1:], id) {
			out = append(out, id)
		}
	}
	return out
}

// Entry is one filesystem object, or the removal of one.
type Entry struct {
	Path       string            // relative, clean, slash-separated; "." is the root
	Mode       uint32            // st_mode: type, permission, set-ID and sticky bits
	UID, GID   uint32            // numeric owner
	Size       int64             // bytes of content; regular files only, otherwise 0
	ModTime    time.Time         // nanosecond resolution
	Link       string            // symbolic link: target as stored; hard link: Path of an earlier entry
	Hardlink   bool              // another name of the regular file (or special file) at Link
	Below      bool              // hard link: Link is a path of the layers below, not of this one
	Major      uint32            // device number, for character and block devices
	Minor      uint32            //
	Xattrs     map[string]string // extended attributes by full name; never overlay's own
	Whiteout   bool              // the path is removed from the layers below; no other field but Path counts
	Opaque     bool              // directory: the entries of the layers below are hidden
	Replaces   bool              // of a tar stream: takes the place of a file, or of a directory with all below it, that came before
	Implied    bool              // directory that a tar stream does not mention: it only stands on the way to others
	Content    Content           // regular files that are no hard links, Size > 0; otherwise nil
	Digest     digest.Digest     // of the content, when known without reading it; else empty
	Inode      uint64            // with Dev, the host's identity of a file with Nlink > 1, else 0
	Dev, Nlink uint64            //
}

// Type returns the S_IFMT bits of the mode.
func (e *Entry) Type() uint32 { return e.Mode & unix.S_IFMT }

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return !e.Whiteout && e.Type() == unix.S_IFDIR }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return !e.Whiteout && e.Type() == unix.S_IFREG }

// IsSymlink reports whether the entry is a symbolic link.
func (e *Entry) IsSymlink() bool { return !e.Whiteout && e.Type() == unix.S_IFLNK }

// Perm returns the permission, set-ID and sticky bits.
func (e *Entry) Perm() uint32 { return e.Mode &^ unix.S_IFMT }

// Content gives the bytes of a regular file. It may be opened any number of times, also
// concurrently, as long as the tree or layer that it came from is alive. Only what [ReadTar] hands
// on can be opened just once, until Add returns.
type Content interface {
	Open() (io.ReadCloser, error)
}

// Coming is a Content that others have to send first. Expect tells that it is going to be opened, so that it may be sent
// meanwhile, and waits for nobody.
type Coming interface {
	Content
	Expect()
}

// HostFile is a Content that is a whole file of the host's filesystem. A sink may clone or
// copy it in the kernel. Immutable tells that nobody will ever write to that file (it lies in
// a layer of the store), so that a hard link is safe.
type HostFile interface {
	Content
	HostPath() string
	Immutable() bool
}

// Sink takes the entries of one layer, parents before children, each path once, hard links
// after their targets. A hard link that is Below stands for nothing but the place that it will take when the
// layer is stacked. Close finishes the form: its error must not be dropped. A sink that
// returned an error is only good for Close.
type Sink interface {
	Add(*Entry) error
	Close() error
}

// ErrHostile marks layer input that tries to reach outside of its root, or that breaks the
// format on purpose: "..", absolute escapes, links through symlinks, absurd sizes.
var ErrHostile = errors.New("unsafe layer content")

// Tree is a read-only view of a root filesystem. It is safe for concurrent use.
//
// Paths are relative and clean; their parents must be real directories: a Tree never follows
// symbolic links, [Resolve] does. A missing path gives an error that is fs.ErrNotExist, one below
// something that is no directory may also give ENOTDIR.
type Tree interface {
	// Lstat describes the object at path; a symbolic link itself, not its target.
	Lstat(path string) (*Entry, error)
	// ReadDir lists a directory's entries in byte order of their names; Path of each is full.
	ReadDir(path string) ([]*Entry, error)
}
