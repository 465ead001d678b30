// Package fileop executes LLB file operations: copy, mkdir, mkfile, symlink and rm.
//
// # Structure
//
// [Make] turns an operation and the root filesystems of its inputs into plans. A [Plan] is what
// the operation changes, in memory, over a read-only tree: nothing is mounted and no content is
// touched. Written to a sink of package layer it becomes a directory or a tar stream. What a
// copy selects is decided in one place (select.go), on which copying and [SourceDigest] both
// stand, so that a cache key covers exactly what a copy reads.
//
// The semantics are BuildKit's, quirks included, but for what docs/differences.md names: a user or group
// name that is not in the image is an error instead of root, directories that only stand on the way to
// a change keep the times that they have, block devices stay such.
package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/slipway-build/slipway/internal/layer"
)

// NotFoundError tells that an operation asked for a path that is not there. It is fs.ErrNotExist.
type NotFoundError struct {
	Path string // absolute, as the operation names it
	// Late: BuildKit sums nothing of where the path was looked for, and misses it when it copies, in other words.
	Late bool
}

func (e *NotFoundError) Error() string {
	if e.Late {
		return "lstat " + e.Path + ": no such file or directory"
	}
	return fmt.Sprintf("%q: not found", e.Path)
}

// Is makes errors.Is(err, fs.ErrNotExist) hold.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// ActionError tells which action of an operation failed. Its text is that of the cause.
type ActionError struct {
	Index int // of the action in the operation
	Err   error
}

func (e *ActionError) Error() string { return e.Err.Error() }
func (e *ActionError) Unwrap() error { return e.Err }

// owner is whom a new file belongs to.
type owner = layer.Owner

// timestamp gives the time that an action asks for; nil: none.
func timestamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(ns/1e9, ns%1e9)
	return &t
}

// cleanPath makes a path absolute and clean but keeps what a copy looks at: a trailing "/" or "/.".
func cleanPath(s string) string {
	c := path.Join("/", s)
	switch {
	case strings.HasSuffix(s, "/.") && c != "/":
		return c + "/."
	case strings.HasSuffix(s, "/.") || (strings.HasSuffix(s, "/") && c == "/"):
		return c
	case strings.HasSuffix(s, "/"):
		return c + "/"
	}
	return c
}

// abs is a tree's path as it is shown to users.
func abs(p string) string {
	if p == "." {
		return "/"
	}
	return "/" + p
}

func splitPath(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return ".", p
}

func joinPath(dir, name string) string { return layer.Clean(dir + "/" + name) }

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
