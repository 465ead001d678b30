package layer

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DiffKind is what became of a path.
type DiffKind string

const (
	Added   DiffKind = "added"
	Removed DiffKind = "removed"
	Changed DiffKind = "changed"
)

// Difference is a path that two layers do not have the same. Of a changed one, What names what is another:
// "type", "mode", "owner", "size", "content", "link", "hard link", "device", "xattrs", "opaque", "whiteout", "mtime".
type Difference struct {
	Path string   `json:"path"`
	Kind DiffKind `json:"kind"`
	What []string `json:"what,omitempty"`
}

// String is a line about the difference, whatever the name is.
func (d Difference) String() string {
	name := "/" + d.Path
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		name = quoted
	}
	if d.Kind != Changed {
		return fmt.Sprintf("%s %s", d.Kind, name)
	}
	return fmt.Sprintf("%s %s: %s", d.Kind, name, strings.Join(d.What, ", "))
}

// Time reports whether nothing but a time is another.
func (d Difference) Time() bool { return d.Kind == Changed && len(d.What) == 1 && d.What[0] == "mtime" }

// Diff tells fn how b differs from a, both of them trees of one layer, in the order of the paths. Contents are
// compared where both have one or know its digest; times are whole seconds, as in a tar. Sockets, which no tar has,
// are left out, and so is the root. It holds no more of the trees than the directories on the way.
func Diff(a, b Tree, fn func(Difference) error) error {
	return DiffEntries(a, b, func(a, b *Entry, what []string) error {
		d := Difference{Path: cmp.Or(b, a).Path, Kind: Changed, What: what}
		if a == nil {
			d.Kind = Added
		} else if b == nil {
			d.Kind = Removed
		}
		return fn(d)
	})
}

// DiffEntries is [Diff] for who wants to know what there is: a is nil for what was added, b for what was removed.
func DiffEntries(a, b Tree, fn func(a, b *Entry, what []string) error) error {
	d := &differ{a: a, b: b, fn: fn, names: [2]map[inode]string{{}, {}}, same: map[string]bool{}}
	return d.dir(".", true, true)
}

type inode struct{ dev, ino uint64 }

type differ struct {
	a, b  Tree
	fn    func(a, b *Entry, what []string) error
	names [2]map[inode]string // of files with several names: the first that came, on either side
	same  map[string]bool     // those of them whose content is the same on both sides: it is read once, however many names it has
}

// dir compares a directory, which may be on one side alone.
func (d *differ) dir(name string, inA, inB bool) error {
	as, err := entriesOf(d.a, name, inA)
	if err != nil {
		return err
	}
	bs, err := entriesOf(d.b, name, inB)
	if err != nil {
		return err
	}
	for len(as) > 0 || len(bs) > 0 {
		var a, b *Entry
		if len(bs) == 0 || len(as) > 0 && as[0].Path <= bs[0].Path {
			a, as = as[0], as[1:]
		}
		if a == nil || len(bs) > 0 && bs[0].Path == a.Path {
			b, bs = bs[0], bs[1:]
		}
		if err := d.entry(a, b); err != nil {
			return err
		}
	}
	return nil
}

func entriesOf(t Tree, name string, there bool) ([]*Entry, error) {
	if !there {
		return nil, nil
	}
	all, err := t.ReadDir(name)
	return slices.DeleteFunc(all, func(e *Entry) bool { return !e.Whiteout && e.Type() == unix.S_IFSOCK }), err
}

// entry compares what is at one path; what is not there is nil.
func (d *differ) entry(a, b *Entry) error {
	switch {
	case a == nil:
		d.firstName(1, b)
		if err := d.fn(nil, b, nil); err != nil {
			return err
		}
	case b == nil:
		d.firstName(0, a)
		if err := d.fn(a, nil, nil); err != nil {
			return err
		}
	default:
		first, second := d.firstName(0, a), d.firstName(1, b)
		what, err := changes(a, b, first == second && d.same[first])
		if err != nil {
			return err
		}
		if first != second {
			what = append(what, "hard link")
		} else if a.Nlink > 1 && b.Nlink > 1 && !slices.Contains(what, "content") && a.IsRegular() && b.IsRegular() && a.Size == b.Size {
			d.same[first] = true
		}
		if len(what) > 0 {
			if err := d.fn(a, b, what); err != nil {
				return err
			}
		}
	}
	if inA, inB := a != nil && a.IsDir(), b != nil && b.IsDir(); inA || inB {
		return d.dir(cmp.Or(a, b).Path, inA, inB)
	}
	return nil
}

// firstName is the first of the names of a file that has several, or its own.
func (d *differ) firstName(side int, e *Entry) string {
	if e.Nlink < 2 || e.IsDir() || e.Whiteout {
		return e.Path
	}
	id := inode{e.Dev, e.Inode}
	if _, ok := d.names[side][id]; !ok {
		d.names[side][id] = e.Path
	}
	return d.names[side][id]
}

// changes names what is another in b than in a, whose contents are known to be the same or are read.
func changes(a, b *Entry, same bool) (what []string, _ error) {
	if a.Whiteout || b.Whiteout {
		if a.Whiteout != b.Whiteout {
			what = append(what, "whiteout")
		}
		return what, nil
	}
	if a.Type() != b.Type() {
		what = append(what, "type")
	}
	note := func(differs bool, name string) {
		if differs {
			what = append(what, name)
		}
	}
	note(a.Perm() != b.Perm(), "mode")
	note(a.UID != b.UID || a.GID != b.GID, "owner")
	note(a.Size != b.Size, "size")
	note(a.IsSymlink() && b.IsSymlink() && a.Link != b.Link, "link")
	note(a.Type() == b.Type() && (a.Major != b.Major || a.Minor != b.Minor), "device")
	note(!maps.Equal(a.Xattrs, b.Xattrs), "xattrs")
	note(a.Opaque != b.Opaque, "opaque")
	if !same && a.IsRegular() && b.IsRegular() && a.Size == b.Size && a.Size > 0 {
		same, err := equalContent(a, b)
		if err != nil {
			return nil, &fs.PathError{Op: "reading", Path: b.Path, Err: err}
		}
		note(!same, "content")
	}
	note(a.ModTime.Unix() != b.ModTime.Unix(), "mtime")
	return what, nil
}

// equalContent compares two files of the same size. Where neither a content nor a digest is known of one it is taken
// for the same.
func equalContent(a, b *Entry) (bool, error) {
	known := func(e *Entry) bool { return e.Digest != "" || e.Content != nil }
	switch {
	case !known(a) || !known(b):
		return true, nil
	case a.Digest != "" || b.Digest != "":
		return sameDigest(a, b)
	}
	return sameContent(a, b)
}
