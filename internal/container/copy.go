package container

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
)

// CopyOptions are the options of all copies.
type CopyOptions struct {
	FollowLink bool // copy what a symbolic link at the source points to
	Archive    bool // keep the numeric owners; otherwise files belong to the user who copies, or to root in a container
	ToUser     bool // files belong to the user of the container's processes, if it has one; of Import
}

// source is what is copied: a file, or a directory as itself or as its contents.
type source struct {
	tree  layer.Tree
	entry *layer.Entry
	base  string // name below an existing directory; "" copies the contents into it
}

// openSource finds the source of a copy. A path that ends in "/." means the contents of a
// directory, one that ends in "/" the directory behind a symbolic link. container is its name, for
// messages.
func openSource(t layer.Tree, name, container string, follow bool) (*source, error) {
	last := name[strings.LastIndexByte(name, '/')+1:]
	mustDir := last == "" || last == "." || last == ".."
	p, err := layer.Resolve(t, name, follow || mustDir)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notInContainer(name, container)
	}
	if err != nil {
		return nil, err
	}
	if mustDir && !e.IsDir() {
		return nil, fmt.Errorf("%s:%s is not a directory", container, name)
	}
	s := &source{tree: t, entry: e, base: path.Base(path.Clean(name))}
	if last == "." || last == ".." || s.base == "/" || s.base == ".." || s.base == "." {
		s.base = ""
	}
	return s, nil
}

// notInContainer is Docker's error for a path that a container does not have.
func notInContainer(name, container string) error {
	return &noDirectoryError{text: fmt.Sprintf("Could not find the file %s in container %s", name, container)}
}

// destination is what is known of the place that a copy goes to.
type destination struct {
	name          string // as the user wrote it, for messages
	slash         bool   // it ends in "/" or "/."
	exists, isDir bool   // of what its symbolic links lead to
	parentIsDir   bool
	noParent      error // what to say if it is not
}

// inside applies Docker's rules: whether the source goes into the destination, under its own
// name or as its contents, or becomes the destination.
func (s *source) inside(d destination) (bool, error) {
	switch {
	case d.exists && d.isDir:
		return true, nil
	case d.exists && d.slash:
		return false, fmt.Errorf("%s is not a directory", d.name)
	case d.exists && s.entry.IsDir():
		return false, fmt.Errorf("cannot copy a directory to the file %s", d.name)
	case d.exists:
		return false, nil
	case !s.entry.IsDir() && d.slash:
		return false, fmt.Errorf("the destination directory %s must exist", d.name)
	case !d.parentIsDir:
		return false, d.noParent
	}
	return false, nil
}

// target is the path that the source gets below an existing directory, "." for its contents.
func (s *source) target() string {
	if s.base == "" {
		return "."
	}
	return s.base
}

// write hands the source's entries to a sink, with their paths below target. The directory
// itself is left out when target is ".", as that exists with attributes of its own. Names of one
// file stay names of one file.
func (s *source) write(target string, sink layer.Sink) error {
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{}
	from := s.entry.Path
	return layer.WalkLive(s.tree, from, true, func(e *layer.Entry) error {
		c := *e
		c.Path = rebase(e.Path, from, target)
		if c.Path == "." {
			return nil
		}
		if c.Nlink > 1 && !c.IsDir() {
			id := inode{c.Dev, c.Inode}
			if link, ok := first[id]; ok {
				c.Hardlink, c.Link, c.Size, c.Content = true, link, 0, nil
			} else {
				first[id] = c.Path
			}
		}
		return sink.Add(&c)
	})
}

// rebase replaces the prefix from of a path.
func rebase(p, from, to string) string {
	if from == "." {
		return path.Join(to, p)
	}
	return path.Join(to, strings.TrimPrefix(strings.TrimPrefix(p, from), "/"))
}

// endsInSlash reports whether a path asks for a directory by its form.
func endsInSlash(name string) bool {
	return strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") || name == "."
}

// Copied is how much a copy was.
type Copied struct {
	Content  int64 // bytes of the files
	Transfer int64 // bytes of the tar stream that Docker would send for it, which it tells as well
}

// counter counts what goes to a sink.
type counter struct {
	layer.Sink
	Copied
}

const tarBlock = 512

func (c *counter) Add(e *layer.Entry) error {
	if c.Transfer == 0 {
		c.Transfer = 2 * tarBlock // the end of the stream
	}
	c.Content += e.Size
	c.Transfer += tarBlock + (e.Size+tarBlock-1)/tarBlock*tarBlock
	return c.Sink.Add(e)
}

// overwrite checks that an entry may replace what is there: directories and other things never
// replace one another.
func overwrite(e *layer.Entry, name string, isDir bool) error {
	switch {
	case isDir && !e.IsDir():
		return fmt.Errorf("cannot overwrite directory %s with non-directory", name)
	case !isDir && e.IsDir():
		return fmt.Errorf("cannot overwrite non-directory %s with directory", name)
	}
	return nil
}
