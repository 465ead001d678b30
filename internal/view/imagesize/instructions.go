package imagesize

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// instructions fills in the history, and returns the index of the instruction that each of n layers is of. Layers that the
// history does not speak of have one without a text.
func (r *Report) instructions(history []ocispec.History, diffIDs []digest.Digest, n int) (of []int) {
	add := func(h ocispec.History, empty bool) {
		in := Instruction{Index: len(r.Instructions), Layer: -1, CreatedBy: h.CreatedBy, Created: h.Created}
		if !empty && len(of) < n {
			in.Layer = len(of)
			of = append(of, in.Index)
			if in.Layer < len(diffIDs) {
				in.DiffID = diffIDs[in.Layer]
			}
		}
		r.Instructions = append(r.Instructions, in)
	}
	for _, h := range history {
		add(h, h.EmptyLayer)
	}
	for len(of) < n {
		add(ocispec.History{}, false)
	}
	return of
}

// report puts what the walk has counted into a report. of gives the instruction of each layer.
func (w *walk) report(r *Report, of []int) {
	for i, l := range w.layers {
		in := &r.Instructions[of[i]]
		in.Size, in.Files, in.Wasted, in.Hides = l.size, l.files, l.wasted, l.hides
		r.Size += l.size
		r.Wasted += l.wasted
	}
	r.Shown, r.Files, r.Efficiency = r.Size-r.Wasted, w.shown, 1
	if r.Size > 0 {
		r.Efficiency = float64(r.Shown) / float64(r.Size)
	}
	r.Root = w.root
	r.Root.prune(int64(w.opt.Share * float64(r.Size)))
	r.Hidden, r.Pairs, r.Leftovers = []Hidden{}, []Pair{}, w.left.list(of)
	for _, h := range w.hidden.sorted() {
		h.Instruction, h.HiddenBy = of[h.Instruction], of[h.HiddenBy]
		r.Hidden = append(r.Hidden, *h)
	}
	for key, sum := range w.pairs {
		r.Pairs = append(r.Pairs, Pair{Instruction: of[key.writer], HiddenBy: of[key.hider], How: key.how, Size: sum.size, Files: sum.files})
	}
	slices.SortFunc(r.Pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Instruction, b.Instruction), cmp.Compare(a.HiddenBy, b.HiddenBy), cmp.Compare(a.How, b.How))
	})
}
