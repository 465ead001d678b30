package imagesize

import (
	"cmp"
	"maps"
	"slices"
)

// maxRoots bounds how many places of one rule are listed.
const maxRoots = 10

// Leftover is what one rule finds among the files that a container sees.
type Leftover struct {
	Rule
	Size   int64   `json:"size"`
	Files  int     `json:"files"`
	By     []Share `json:"instructions"` // that wrote it, the most bytes first
	Places []Root  `json:"places"`       // the largest ones
}

// Share is what one instruction has of something.
type Share struct {
	Instruction int   `json:"instruction"`
	Size        int64 `json:"size"`
}

// Root is a directory or a file that a rule has.
type Root struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// leftovers adds up what rules have.
type leftovers struct {
	all   []Rule
	rules map[string]*ruleSum
}

type ruleSum struct {
	*Rule
	size  int64
	files int
	by    map[int]int64 // by layers
	roots []Root
}

// leftRoot is the place that is being looked at. nil is none.
type leftRoot struct {
	sum  *ruleSum
	path string
	size int64
}

// enter looks for a rule that has a directory.
func (l *leftovers) enter(dir string) *leftRoot {
	if dir == "." {
		return nil
	}
	return l.root(ruleOfDir(l.all, "/"+dir), "/"+dir+"/")
}

// file looks for a rule that has a file.
func (l *leftovers) file(name string) *leftRoot { return l.root(ruleOfFile(l.all, "/"+name), "/"+name) }

func (l *leftovers) root(rule *Rule, at string) *leftRoot {
	if rule == nil {
		return nil
	}
	sum := l.rules[rule.ID]
	if sum == nil {
		sum = &ruleSum{Rule: rule, by: map[int]int64{}}
		l.rules[rule.ID] = sum
	}
	return &leftRoot{sum: sum, path: at}
}

// count adds a file of a layer.
func (r *leftRoot) count(layer int, size int64) {
	if r == nil {
		return
	}
	r.size += size
	r.sum.size += size
	r.sum.files++
	r.sum.by[layer] += size
}

// leave ends the look at a place.
func (l *leftovers) leave(r *leftRoot) {
	if r == nil || r.size == 0 {
		return
	}
	roots := append(r.sum.roots, Root{r.path, r.size})
	if len(roots) > 4*maxRoots {
		roots = largest(roots)
	}
	r.sum.roots = roots
}

func largest(roots []Root) []Root {
	slices.SortFunc(roots, func(a, b Root) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Path, b.Path)) })
	return roots[:min(len(roots), maxRoots)]
}

// list gives what there is. of gives the instruction of each layer.
func (l *leftovers) list(of []int) []Leftover {
	out := []Leftover{}
	for _, sum := range l.rules {
		if sum.size == 0 {
			continue
		}
		left := Leftover{Rule: *sum.Rule, Size: sum.size, Files: sum.files, Places: largest(sum.roots)}
		for _, i := range slices.Sorted(maps.Keys(sum.by)) {
			left.By = append(left.By, Share{of[i], sum.by[i]})
		}
		slices.SortStableFunc(left.By, func(a, b Share) int { return cmp.Compare(b.Size, a.Size) })
		out = append(out, left)
	}
	slices.SortFunc(out, func(a, b Leftover) int { return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.ID, b.ID)) })
	return out
}
