package layer

import (
	"errors"
	"io/fs"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// merged is the view that an overlay mount of its layers would give.
type merged struct {
	top []Tree // uppermost first

	mu    sync.Mutex
	dirs  map[string][]Tree // per merged directory the layers that contribute, uppermost first
	empty *Entry            // the root when no layer has one
}

// Merged gives the root filesystem of layers, base first, exactly as overlayfs shows it: whiteouts
// remove, opaque directories hide what is below, directories merge and take their metadata from
// the uppermost layer that has them, anything else replaces. No layers give an empty root
// directory that belongs to root with mode 0755. The layers must not change any more: which of
// them make up a directory is remembered.
func Merged(lower []Tree) Tree {
	m := &merged{
		dirs:  map[string][]Tree{},
		empty: &Entry{Path: ".", Mode: unix.S_IFDIR | 0o755},
	}
	for i := len(lower) - 1; i >= 0; i-- {
		m.top = append(m.top, lower[i])
	}
	return m
}

func (m *merged) Lstat(name string) (*Entry, error) {
	if name == "." && len(m.top) == 0 {
		e := *m.empty
		return &e, nil
	}
	layers := m.top
	if name != "." {
		parent, _ := split(name)
		var err error
		if layers, err = m.stack(parent); err != nil {
			return nil, pathError("lstat", name, unwrapPath(err))
		}
	}
	e, _, err := lookup(layers, name, false)
	return e, err
}

func (m *merged) ReadDir(name string) ([]*Entry, error) {
	layers, err := m.stack(name)
	if err != nil {
		return nil, pathError("readdir", name, unwrapPath(err))
	}
	var out []*Entry
	seen := map[string]struct{}{}
	implied := map[string]int{} // entries of out that take their metadata from a lower layer
	for i, l := range layers {
		entries, err := l.ReadDir(name)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if len(layers) > 1 {
				if _, ok := seen[e.Path]; ok {
					if at, ok := implied[e.Path]; ok && !e.Implied {
						if e.IsDir() {
							out[at] = plain(e)
						}
						delete(implied, e.Path)
					}
					continue
				}
				if e.Implied {
					implied[e.Path] = len(out)
				}
				if i < len(layers)-1 {
					seen[e.Path] = struct{}{}
				}
			}
			if !e.Whiteout {
				out = append(out, plain(e))
			}
		}
	}
	if len(layers) > 1 {
		sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	}
	return out, nil
}

// stack gives the layers that make up the merged directory at a path, uppermost first.
func (m *merged) stack(name string) ([]Tree, error) {
	m.mu.Lock()
	layers, ok := m.dirs[name]
	m.mu.Unlock()
	if ok {
		return layers, nil
	}
	candidates := m.top
	if name != "." {
		parent, _ := split(name)
		var err error
		if candidates, err = m.stack(parent); err != nil {
			return nil, err
		}
	} else if len(candidates) == 0 {
		return nil, nil
	}
	e, layers, err := lookup(candidates, name, true)
	if err != nil {
		return nil, err
	}
	if !e.IsDir() {
		return nil, unix.ENOTDIR
	}
	m.mu.Lock()
	m.dirs[name] = layers
	m.mu.Unlock()
	return layers, nil
}

// lookup finds a path in layers whose directories all contribute to the merged parent. With all
// it also gives the layers that contribute to the directory at the path.
//
// A directory that is there because of what is in it takes its metadata from the layers below, also where it is opaque.
func lookup(layers []Tree, name string, all bool) (found *Entry, stack []Tree, err error) {
	opaque := false
	for _, l := range layers {
		e, err := l.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if e.Whiteout {
			break
		}
		if found == nil || (found.Implied && !e.Implied && e.IsDir()) {
			found = e
		}
		if !e.IsDir() || (!all && !found.Implied) {
			break
		}
		if !opaque {
			stack = append(stack, l)
		}
		if opaque = opaque || e.Opaque; opaque && !found.Implied {
			break
		}
	}
	if found == nil {
		return nil, nil, pathError("lstat", name, fs.ErrNotExist)
	}
	return plain(found), stack, nil
}

// plain is the entry without what only says something of a single layer.
func plain(e *Entry) *Entry {
	if !e.Opaque && !e.Implied {
		return e
	}
	c := *e
	c.Opaque, c.Implied = false, false
	return &c
}

// unwrapPath takes the cause out of a path error, so that it can be told of another path.
func unwrapPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
