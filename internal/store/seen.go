package store

import (
	"os"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
)

// A layer cannot change, and one that this process uses is collected by nobody. So when its directory form was seen, and
// that it takes nothing of the layers below it, that is known: a step would ask for each layer below it.

// maxSeen bounds the directories that are kept open.
const maxSeen = 256

// sawDir notes that the directory form of a layer is there.
func (s *Store) sawDir(info LayerInfo) {
	if info.Claimed {
		return // it may be forgotten
	}
	if st, err := s.keptStacking(info.ID); err != nil || !st.Empty() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lease
	if l == nil || !l.held[layerLine(info.ID)] && !strings.HasPrefix(string(info.ID), l.id+"-") {
		return
	}
	if l.seen == nil || len(l.seen) >= maxSeen {
		l.seen = map[layer.ID]layer.Tree{}
	}
	l.seen[info.ID] = s.formTree(info.ID)
}

// seenDir is the tree of a layer of which sawDir knows, or nil. That its directory is still there is looked at.
func (s *Store) seenDir(id layer.ID) layer.Tree {
	t := s.seen(id)
	if t == nil {
		return nil
	}
	if _, err := os.Lstat(s.layerFS(id)); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lease != nil {
			delete(s.lease.seen, id)
		}
		return nil
	}
	return t
}

func (s *Store) seen(id layer.ID) layer.Tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil
	}
	return s.lease.seen[id]
}
