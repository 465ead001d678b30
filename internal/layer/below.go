package layer

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// Below is the part of a tree that is in a directory of it. Links on the way to dir are followed inside of the tree.
func Below(t Tree, dir string) (Tree, error) {
	p, err := Resolve(t, dir, true)
	if err != nil {
		return nil, err
	}
	e, err := t.Lstat(p)
	if err != nil {
		return nil, err
	}
	if !e.IsDir() {
		return nil, fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	if p == "." {
		return t, nil
	}
	return &below{t, p}, nil
}

type below struct {
	t   Tree
	dir string
}

func (b *below) Lstat(name string) (*Entry, error) {
	e, err := b.t.Lstat(path.Join(b.dir, name))
	if err != nil {
		return nil, err
	}
	return b.entry(e), nil
}

func (b *below) ReadDir(name string) ([]*Entry, error) {
	entries, err := b.t.ReadDir(path.Join(b.dir, name))
	if err != nil {
		return nil, err
	}
	out := make([]*Entry, 0, len(entries))
	for _, e := range entries {
		out = append(out, b.entry(e))
	}
	return out, nil
}

// entry is an entry with its path in the directory.
func (b *below) entry(e *Entry) *Entry {
	c := *e
	c.Path = "."
	if len(e.Path) > len(b.dir) {
		c.Path = e.Path[len(b.dir)+1:]
	}
	return &c
}
