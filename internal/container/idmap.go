package container

import (
	"fmt"
	"os"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
)

// overflowID is what the kernel shows for an ID that a user namespace does not have.
const overflowID = 65534

// idMap is how the users and groups of a container's user namespace are called here, who reads its files from outside. The zero value is that of no namespace.
type idMap struct{ users, groups idRanges }

// idRange maps as many IDs of a namespace, from inside on, to those here, from outside on: a line of uid_map, see user_namespaces(7).
type idRange struct{ inside, outside, size uint32 }

type idRanges []idRange

// readIDMap is that of a process.
func readIDMap(pid int) (m idMap, err error) {
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return m, err
	}
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil || its == own { // whose map the kernel would tell for the namespace above
		return m, err
	}
	for _, of := range []struct {
		file string
		into *idRanges
	}{{"uid_map", &m.users}, {"gid_map", &m.groups}} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, of.file))
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(data)) {
			var r idRange
			if _, err := fmt.Sscan(line, &r.inside, &r.outside, &r.size); err != nil {
				return m, fmt.Errorf("reading %s of process %d: %w", of.file, pid, err)
			}
			*of.into = append(*of.into, r)
		}
	}
	return m, nil
}

func (all idRanges) inside(id uint32) uint32 {
	if len(all) == 0 {
		return id
	}
	for _, r := range all {
		if id >= r.outside && id-r.outside < r.size {
			return r.inside + (id - r.outside)
		}
	}
	return overflowID
}

func (all idRanges) outside(id uint32) (uint32, error) {
	if len(all) == 0 {
		return id, nil
	}
	for _, r := range all {
		if id >= r.inside && id-r.inside < r.size {
			return r.outside + (id - r.inside), nil
		}
	}
	return 0, fmt.Errorf("the container's user namespace has no ID %d", id)
}

// shown is an entry with the owner that the container sees.
func (m *idMap) shown(e *layer.Entry) *layer.Entry {
	seen := *e
	seen.UID, seen.GID = m.users.inside(e.UID), m.groups.inside(e.GID)
	return &seen
}

// written is an entry with the owner that has to be written for the container to see the entry's.
func (m *idMap) written(e *layer.Entry) (*layer.Entry, error) {
	w := *e
	var err error
	if w.UID, err = m.users.outside(e.UID); err == nil {
		w.GID, err = m.groups.outside(e.GID)
	}
	if err != nil {
		return nil, fmt.Errorf("writing /%s: %w", e.Path, err)
	}
	return &w, nil
}

// seenTree is what a running container sees.
type seenTree struct {
	layer.Tree
	ids idMap
}

func (t *seenTree) Lstat(path string) (*layer.Entry, error) {
	e, err := t.Tree.Lstat(path)
	if err != nil {
		return nil, err
	}
	return t.ids.shown(e), nil
}

func (t *seenTree) ReadDir(path string) ([]*layer.Entry, error) {
	all, err := t.Tree.ReadDir(path)
	for i, e := range all {
		all[i] = t.ids.shown(e)
	}
	return all, err
}
