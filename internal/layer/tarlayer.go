package layer

import (
	"archive/tar"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stacking is what a layer has that depends on the layers below it.
type Stacking struct {
	// Dirs are the directories that the layer does not mention, but has entries in, parents first: they
	// take their attributes from below.
	Dirs []string
	// Links are hard links to files of layers below, by their paths, with the paths of the files.
	Links map[string]string
}

// Empty reports whether the layer is the same on whatever it is stacked.
func (s Stacking) Empty() bool { return len(s.Dirs) == 0 && len(s.Links) == 0 }

// ReadTar reads an uncompressed tar stream of a layer, which may be hostile, and hands it to a sink, which
// it does not close. It reads r to its end, so that a digest over r is of the whole blob.
//
// Entries come in the order of the stream. Names are made relative and clean and stay inside of the root;
// a symbolic link that the same stream made is followed inside of the root when it is on the way to an entry, as
// containerd does; one of a layer below is not seen, so that an entry below it makes a directory of it. An entry
// below something else that is no directory, an invalid ".wh." name or too much of anything gives an error
// that is [ErrHostile]. Missing parents are added. A whiteout only acts on the layers below, wherever in the
// stream it stands: beside a directory of the same name it makes that opaque. Extended attributes that
// no layer keeps are dropped. A hard link to what the stream has not shown is one to a file of the layers
// below ([Entry.Below]).
//
// # Caveats
//
// A name that comes twice is handed on twice, the second replaces the first; a directory comes
// again when it turns out to be opaque. The Content of an entry can be opened once, until Add
// returns.
func ReadTar(r io.Reader, opt TarOptions, sink Sink) (Stacking, error) {
	l := &layerReader{sink: sink, root: &seen{kind: seenDir}}
	l.tarReader = newTarReader(r, opt)
	err := l.read(r, func(_ *tarReader, h *tar.Header, name string) error { return l.header(h, name) })
	if err != nil {
		return Stacking{}, err
	}
	var s Stacking
	if l.depends {
		l.root.stacking("", &s)
		slices.Sort(s.Dirs)
	}
	return s, nil
}

// seenKind is what a stream has made of a path.
type seenKind uint8

const (
	seenOther seenKind = iota // a file, or anything else that is none of the following
	seenDir
	seenImplied // a directory that the stream does not mention
	seenGone    // a whiteout
	seenSymlink // link is its target
	seenBelow   // a hard link to the file link of a layer below
)

// seen is what a stream has said of one path so far. Of most it has said the same ([seenFile]).
type seen struct {
	children map[string]*seen
	entry    *Entry // of a directory, as it was handed on last
	link     string
	kind     seenKind
}

// seenFile is all that is to be known of a file. It is never changed.
var seenFile = &seen{kind: seenOther}

func (s *seen) isDir() bool { return s.kind == seenDir || s.kind == seenImplied }

func (s *seen) set(base string, child *seen) {
	if s.children == nil {
		s.children = map[string]*seen{}
	}
	s.children[strings.Clone(base)] = child // not the whole path
}

// stacking adds what is below a directory.
func (s *seen) stacking(dir string, out *Stacking) {
	for base, c := range s.children {
		name := join(dir, base)
		switch c.kind {
		case seenImplied:
			out.Dirs = append(out.Dirs, name)
		case seenBelow:
			if out.Links == nil {
				out.Links = map[string]string{}
			}
			out.Links[name] = c.link
		}
		c.stacking(name, out)
	}
}

// layerReader gives the headers of a stream their meaning in a layer.
type layerReader struct {
	*tarReader
	sink Sink
	root *seen
	way  []*seen // of the walk in hand: directories on the way, the root left out

	depends bool // on what is below
}

func (l *layerReader) header(h *tar.Header, name string) error {
	if strings.Contains(name, whiteoutPrefix) {
		if done, err := l.whiteout(name); done || err != nil {
			return err
		}
	}
	e, err := l.entry(h, name)
	if err != nil {
		return err
	}
	if name == "." {
		if !e.IsDir() {
			return nil // the root stays a directory, as in containerd
		}
		l.root.entry = e
		return l.sink.Add(e)
	}
	dir, base := split(name)
	parent, real, err := l.walk(dir, true)
	if err != nil {
		return err
	}
	if real != dir {
		e.Path = join(real, base)
	}
	next := seenFile
	if e.Hardlink {
		if next, err = l.target(e); err != nil {
			return err
		}
		if e.Link == e.Path {
			return nil // the file itself
		}
	}
	old := parent.children[base]
	e.Replaces = old != nil && (e.Below || old.kind != seenGone) && !(old.isDir() && e.IsDir())
	switch {
	case e.Hardlink && old != nil && old.isDir() && strings.HasPrefix(e.Link, e.Path+"/"):
		return hostile("hard link replaces the directory of its target")
	case e.IsDir():
		next = &seen{kind: seenDir, entry: e}
		if old != nil && old.isDir() {
			next.children = old.children
			e.Opaque = old.entry.Opaque
		}
		e.Opaque = e.Opaque || (old != nil && old.kind == seenGone)
	case e.IsSymlink():
		next = &seen{kind: seenSymlink, link: e.Link}
	}
	parent.set(base, next)
	return l.sink.Add(e)
}

// walk goes down a name from the root as far as the stream has made directories, following its
// symbolic links inside of the root. With add it makes those that are not there; without, what it returns is nil
// where the first of them is missing. The path that it returns is that of the whole name, with no links on the way.
func (l *layerReader) walk(name string, add bool) (*seen, string, error) {
	l.way = l.way[:0]
	cur, at, links := l.root, "", 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..": // in the target of a symbolic link
			cur, at = l.up(at)
			continue
		}
		var path string
		if links > 0 {
			path = join(at, part)
		} else if path = part; at != "" {
			path = name[:len(at)+1+len(part)] // which is join without its cost
		}
		if len(path) > maxPath {
			return nil, "", hostile("name of %d bytes behind symbolic links", len(path))
		}
		next := cur.children[part]
		if next == nil || next.kind == seenGone {
			if !add {
				return nil, Clean(join(path, rest)), nil
			}
			var err error
			if next, err = l.imply(cur, part, path); err != nil {
				return nil, "", err
			}
		}
		switch {
		case next.isDir():
			l.way = append(l.way, next)
			cur, at = next, path
		case next.kind == seenSymlink:
			if links++; links > maxLinks {
				return nil, "", hostile("%q: %v", path, errLinks)
			}
			if strings.HasPrefix(next.link, "/") {
				l.way, cur, at = l.way[:0], l.root, ""
			}
			rest = next.link + "/" + rest
		default:
			return nil, "", hostile("%q is below %q, which is no directory", name, path)
		}
	}
	if at == "" {
		at = "."
	}
	return cur, at, nil
}

// up is the directory above the one at a path, which is the last of the way.
func (l *layerReader) up(at string) (*seen, string) {
	if len(l.way) > 0 {
		l.way = l.way[:len(l.way)-1]
	}
	if len(l.way) == 0 {
		return l.root, ""
	}
	dir, _ := split(at)
	return l.way[len(l.way)-1], dir
}

// imply makes a directory that the stream leaves out, or for a whiteout one that takes its place.
func (l *layerReader) imply(dir *seen, base, path string) (*seen, error) {
	if strings.HasPrefix(base, whiteoutPrefix) {
		return nil, hostile("entry below the whiteout %q", path)
	}
	if err := l.use(len(path)); err != nil { // one name makes many of them
		return nil, err
	}
	e := l.implied(path)
	next := &seen{kind: seenImplied, entry: e}
	if dir.children[base] != nil { // a whiteout
		e.Opaque, next.kind = true, seenDir
	}
	e.Implied = !e.Opaque
	l.depends = l.depends || e.Implied
	dir.set(base, next)
	return next, l.sink.Add(e)
}

// implied makes the entry of a directory that the stream does not mention.
func (l *layerReader) implied(name string) *Entry {
	if l.opt.Lower != nil {
		if e, err := l.opt.Lower.Lstat(name); err == nil && e.IsDir() {
			c := *e
			c.Opaque = false
			return &c
		}
	}
	return &Entry{Path: name, Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0)}
}

// target completes a hard link, whose target's directory is found as that of an entry is. It returns what
// the link's own name is then.
func (l *layerReader) target(e *Entry) (*seen, error) {
	dir, base := split(e.Link)
	parent, dir, err := l.walk(dir, false)
	if err != nil {
		return nil, err
	}
	e.Link = join(dir, base)
	var to *seen
	if parent != nil {
		to = parent.children[base]
	}
	switch {
	case to == nil:
		to = &seen{kind: seenBelow, link: e.Link}
	case to.isDir(), to.kind == seenGone:
		return nil, hostile("hard link to %q, which is no file", e.Link)
	}
	if to.kind == seenBelow {
		e.Below, e.Link, l.depends = true, to.link, true
	}
	return to, nil // what is said of a file holds for all its names
}

// whiteout deals with the names that a layer gives a meaning. done: it was one.
func (l *layerReader) whiteout(name string) (done bool, _ error) {
	dir, base := split(name)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return true, nil // below .wh..wh.plnk and other bookkeeping of aufs
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, hostile("entry below the whiteout %q", part)
		}
	}
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return false, nil
	}
	if base == opaqueMarker {
		return true, l.opaque(dir)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return true, nil
	}
	target := base[len(whiteoutPrefix):]
	if target == "" || target == "." || target == ".." {
		return false, hostile("invalid whiteout name")
	}
	parent, dir, err := l.walk(dir, true)
	if err != nil {
		return false, err
	}
	switch old := parent.children[target]; {
	case old == nil:
		parent.set(target, &seen{kind: seenGone})
		return true, l.sink.Add(&Entry{Path: join(dir, target), Whiteout: true})
	case old.isDir():
		return true, l.opaque(join(dir, target))
	}
	return true, nil
}

// opaque hands a directory on once more, now opaque.
func (l *layerReader) opaque(dir string) error {
	node, _, err := l.walk(dir, true)
	if err != nil {
		return err
	}
	if node.entry == nil { // the root, not mentioned so far
		node.entry = l.implied(".")
	}
	e := *node.entry
	e.Opaque = true
	node.entry = &e
	return l.sink.Add(&e)
}
