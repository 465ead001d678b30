package imagesize

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/slipway-build/slipway/internal/layer"
)

// How a later layer hides a file.
type How string

const (
	Deleted   How = "deleted"   // it, or a directory above it, is removed
	Replaced  How = "replaced"  // by something else
	Rewritten How = "rewritten" // by a file of the same content: only its mode, owner, time or attributes are others
)

// Hidden is a file, or a directory with all that a layer has in it, which a later layer hides.
type Hidden struct {
	Path        string `json:"path"` // with a slash at the end it is a directory
	Size        int64  `json:"size"`
	Files       int    `json:"files"`
	Instruction int    `json:"instruction"` // that wrote it
	HiddenBy    int    `json:"hiddenBy"`    // the first one that hides it
	How         How    `json:"how"`
}

// Pair is what one instruction hides of another one's.
type Pair struct {
	Instruction int   `json:"instruction"`
	HiddenBy    int   `json:"hiddenBy"`
	How         How   `json:"how"`
	Size        int64 `json:"size"`
	Files       int   `json:"files"`
}

type pairKey struct {
	writer, hider int
	how           How
}

type pairSum struct {
	size  int64
	files int
}

// hides reports whether an entry of a later layer hides one at the same path, and how.
func hides(lower, upper *layer.Entry) (How, bool, error) {
	switch {
	case upper.Whiteout:
		return Deleted, true, nil
	case lower.IsDir() && upper.IsDir():
		return Deleted, upper.Opaque, nil
	case !lower.IsRegular() || !upper.IsRegular() || lower.Size != upper.Size:
		return Replaced, true, nil
	case lower.Size == 0:
		return Rewritten, true, nil
	}
	a, err := digestOf(lower)
	if err != nil {
		return "", false, err
	}
	b, err := digestOf(upper)
	if err != nil {
		return "", false, err
	}
	if a == b && a != "" {
		return Rewritten, true, nil
	}
	return Replaced, true, nil
}

// longest are the largest things of those that were offered, so many at most.
type longest struct {
	most  int
	items []*Hidden // a heap, the smallest first
}

func (l *longest) Len() int           { return len(l.items) }
func (l *longest) Less(i, j int) bool { return larger(l.items[j], l.items[i]) < 0 }
func (l *longest) Swap(i, j int)      { l.items[i], l.items[j] = l.items[j], l.items[i] }
func (l *longest) Push(x any)         { l.items = append(l.items, x.(*Hidden)) }
func (l *longest) Pop() any {
	last := l.items[len(l.items)-1]
	l.items = l.items[:len(l.items)-1]
	return last
}

func (l *longest) offer(h *Hidden) {
	switch {
	case h.Size == 0:
	case len(l.items) < l.most:
		heap.Push(l, h)
	case larger(h, l.items[0]) < 0:
		l.items[0] = h
		heap.Fix(l, 0)
	}
}

func (l *longest) sorted() []*Hidden {
	slices.SortFunc(l.items, larger)
	return l.items
}

func larger(a, b *Hidden) int {
	return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Instruction, b.Instruction))
}
