package inplace

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// change is something that a step changed, or a directory with such things in it.
type change struct {
	name   string
	gone   bool // it is not there any more
	opaque bool // a directory in the place of another one: nothing of that shows
	made   bool // it was not there before
	ino    uint64
	below  []change
}

// differ compares a tree with what it was.
type differ struct {
	before stamps           // that were moved since
	linked map[uint64]stamp // of those
	named  map[uint64]bool  // inodes of files with several names that have a new one
	// secrets are files that are to be in no layer, and found is the name of one that is in the tree.
	secrets map[uint64]stamp
	found   string
	links   map[uint64]layer.LinkRecord // owners that the step gave to links and the like
	// same compares a file with what the layers have at its path.
	same func(path string) (bool, error)
}

// changes are the entries of a directory that differ.
func (d *differ) changes(old, now *dir, path string) (all []change) {
	i, k := 0, 0
	for i < len(old.entries) || k < len(now.entries) {
		order := 0
		switch {
		case i == len(old.entries):
			order = 1
		case k == len(now.entries):
			order = -1
		default:
			order = strings.Compare(old.entries[i].name, now.entries[k].name)
		}
		switch {
		case order < 0:
			all = append(all, change{name: old.entries[i].name, gone: true})
			i++
		case order > 0:
			all = append(all, d.added(&now.entries[k]))
			k++
		default:
			if c, ok := d.change(&old.entries[i], &now.entries[k], join(path, now.entries[k].name)); ok {
				all = append(all, c)
			}
			i++
			k++
		}
	}
	return all
}

// change compares what has one name.
func (d *differ) change(old, now *entry, path string) (change, bool) {
	st := now.stamp
	if before, ok := d.before[path]; ok { // since then it was moved
		st = before
	} else if before, ok := d.linked[st.ino]; ok && st.links > 1 && before.is(&st) {
		st = before
	}
	if !old.stamp.is(&st) {
		c := d.added(now)
		c.opaque = old.stamp.isDir() && st.isDir()
		return c, true
	}
	if !st.isDir() {
		_, told := d.links[st.ino]
		return change{name: now.name, ino: st.ino}, st != old.stamp || told && st.mode&unix.S_IFMT != unix.S_IFREG
	}
	below := d.changes(old.dir, now.dir, path)
	return change{name: now.name, ino: st.ino, below: below}, st != old.stamp || len(below) > 0
}

// added is something new with all that is in it.
func (d *differ) added(e *entry) change {
	if s, ok := d.secrets[e.stamp.ino]; ok && s.is(&e.stamp) {
		d.found = e.name
	}
	if e.stamp.links > 1 {
		d.named[e.stamp.ino] = true
	}
	c := change{name: e.name, ino: e.stamp.ino, made: true}
	if e.dir != nil {
		for i := range e.dir.entries {
			c.below = append(c.below, d.added(&e.dir.entries[i]))
		}
	}
	return c
}

// dropLinked leaves out files with several names that are as the layers have them: something was done that changed nothing, or
// another name was removed. Of other files, [layer.DropUnchanged] does it.
func (d *differ) dropLinked(all []change, old, now *dir, path string) ([]change, error) {
	var left []change
	for _, c := range all {
		was, is := old.find(c.name), now.find(c.name)
		drop := false
		var err error
		switch {
		case was == nil || is == nil || !was.stamp.is(&is.stamp):
		case is.stamp.isDir():
			had := len(c.below) > 0
			c.below, err = d.dropLinked(c.below, was.dir, is.dir, join(path, c.name))
			drop = had && len(c.below) == 0 && was.stamp == is.stamp
		case is.stamp.links > 1 && is.stamp.links <= was.stamp.links && !d.named[is.stamp.ino]:
			drop, err = d.same(join(path, c.name))
		}
		if err != nil {
			return nil, err
		}
		if !drop {
			left = append(left, c)
		}
	}
	return left, nil
}

// changed is the [layer.Tree] of one layer: what changed.
type changed struct {
	live layer.Tree
	top  []change
	// owner is whom what was made belongs to, unless it says something else, and links what links and the like belong to.
	owner layer.Owner
	links map[uint64]layer.LinkRecord
}

// at finds what changed in a directory.
func (t *changed) at(path string) []change {
	list := t.top
	if path == "." {
		return list
	}
	for name := range strings.SplitSeq(path, "/") {
		found := false
		for i := range list {
			if found = list[i].name == name; found {
				list = list[i].below
				break
			}
		}
		if !found {
			return nil
		}
	}
	return list
}

// Lstat implements [layer.Tree].
func (t *changed) Lstat(path string) (*layer.Entry, error) { return t.live.Lstat(path) }

// ReadDir implements [layer.Tree].
func (t *changed) ReadDir(path string) ([]*layer.Entry, error) {
	list := t.at(path)
	if len(list) == 0 {
		return nil, nil
	}
	var out []*layer.Entry
	for i := range list {
		c := &list[i]
		name := join(path, c.name)
		if c.gone {
			out = append(out, &layer.Entry{Path: name, Whiteout: true})
			continue
		}
		e, err := t.live.Lstat(name)
		if err != nil {
			return nil, err
		}
		e.Opaque = c.opaque
		if r, ok := t.links[c.ino]; ok && !e.IsDir() && !e.IsRegular() {
			e.UID, e.GID = r.UID, r.GID
		} else if c.made && e.UID == 0 && e.GID == 0 {
			e.UID, e.GID = t.owner.UID, t.owner.GID
		}
		out = append(out, e)
	}
	return out, nil
}
