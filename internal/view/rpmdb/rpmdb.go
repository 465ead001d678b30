// Package rpmdb reads which packages a database of rpm says are installed: databases of SQLite, of ndb and of Berkeley DB, as they
// lie in images.
//
// # Structure
//
// [Read] finds out which kind a file is. Each kind (sqlite.go, ndb.go, bdb.go) gives headers of packages, whatever else is in the
// database, and header.go reads from a header what is told of a package.
//
// # Caveats
//
// Databases come from images: all in them is a claim, as are lengths, numbers of pages and offsets. What is read is bounded by the length
// of the file, whatever leads to what in it, a header by [maxHeader], and a database that is damaged is an error. Libraries for such
// databases trust them: SQLite carries out what a schema says, and go-rpmdb goes on for ever where pages lead in a circle.
package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Package is one that is installed.
type Package struct {
	Name    string
	Version string // "[epoch:]version-release"
	Arch    string // "" of a public key, which is a package to rpm
	Size    int64  // bytes of its files
}

// File is a file of a database.
type File struct {
	io.ReaderAt
	Size int64 // bytes
}

// ErrDamaged marks a database that cannot be read.
var ErrDamaged = errors.New("the database is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

const (
	maxHeader   = 32 << 20 // bytes of a package's header
	maxPackages = 1 << 17
	// again is how often, on the average, a byte may be read: pages may lead to each other in more ways than there are pages.
	again = 4
)

// file is a File of which no more than a number of bytes is read.
type file struct {
	File
	left int64
}

// at reads some bytes.
func (f *file) at(offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset > f.Size || n > f.Size-offset {
		return nil, damaged("it has no %d bytes at %d", n, offset)
	}
	if err := f.take(n); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	_, err := f.ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		return data, damaged("it ends before its end")
	}
	return data, err
}

// take counts some bytes that are read, or read again out of a page.
func (f *file) take(n int64) error {
	if f.left -= n; f.left < 0 {
		return damaged("its pages lead to each other")
	}
	return nil
}

// Read tells fn all packages of a database. wal is the log beside one of SQLite, in which the latest pages are; empty if there is none.
func Read(main, wal File, fn func(Package)) error {
	f := &file{main, again*(main.Size+wal.Size) + 1<<16}
	head, err := f.at(0, min(main.Size, 64))
	if err != nil {
		return err
	}
	n := 0
	tell := func(header []byte) error {
		if n++; n > maxPackages {
			return damaged("it has more than %d packages", maxPackages)
		}
		p, err := parseHeader(header)
		if err == nil && p.Name != "" {
			fn(p)
		}
		return err
	}
	switch {
	case len(head) < 64:
		return damaged("it has %d bytes", len(head))
	case string(head[:16]) == sqliteMagic:
		return readSQLite(f, wal, tell)
	case string(head[:4]) == ndbMagic:
		return readNDB(f, tell)
	case binary.LittleEndian.Uint32(head[12:]) == bdbHashMagic:
		return readBDB(f, binary.LittleEndian, tell)
	case binary.BigEndian.Uint32(head[12:]) == bdbHashMagic:
		return readBDB(f, binary.BigEndian, tell)
	}
	return damaged("it is none of SQLite, ndb and Berkeley DB")
}
