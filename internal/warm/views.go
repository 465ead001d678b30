package warm

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/graph"
)

// Views tells who sees which files of what the vertices of graphs give, before anything of them runs. It is safe for concurrent use.
type Views struct {
	// Given are directories, absolute or below "~", that processes find warm because somebody wants that: they may name them.
	Given []string

	mu sync.Mutex
	of map[digest.Digest]*view
}

// view is what is seen of a vertex.
type view struct{ sights []Sight }

// Sight is a file or directory of which everything is seen, from a place in the graph.
type Sight struct {
	Path string // clean and absolute
	// By is the instruction that sees it, with its line; "": it is part of the result.
	By string
}

// maxSights is how many places a vertex may be seen at; with more all of it is.
const maxSights = 200

// Add notes that all of what an edge gives is seen: it is exported, read by a frontend or shown by a container.
func (v *Views) Add(e graph.Edge) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == nil {
		v.of = map[digest.Digest]*view{}
	}
	v.see(e.Vertex, Sight{Path: "/"})
}

// See reports what sees something of a directory of a vertex. Of a vertex that stands in no graph which was added, everything is seen.
func (v *Views) See(vertex digest.Digest, dir string) (Sight, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := v.of[vertex]
	if known == nil {
		return Sight{Path: "/"}, true
	}
	for _, s := range known.sights {
		if Overlap(s.Path, dir) {
			return s, true
		}
	}
	return Sight{}, false
}

// see notes a sight of a vertex, and of what it continues. The first of a vertex also tells what that reads of its inputs.
func (v *Views) see(vx *graph.Vertex, s Sight) {
	if vx == nil {
		return
	}
	known := v.of[vx.Digest]
	if known == nil {
		known = &view{}
		v.of[vx.Digest] = known
		for i, u := range readsOf(vx) {
			for _, name := range u.paths {
				v.see(vx.Inputs[i].Vertex, Sight{name, describe(vx)})
			}
		}
		for _, name := range v.namedBy(vx.Op.GetExec().GetMeta()) {
			v.see(vx, Sight{name, describe(vx)})
		}
	}
	if !known.add(s) {
		return
	}
	for i, u := range readsOf(vx) {
		if u.continues {
			v.see(vx.Inputs[i].Vertex, s)
		}
	}
}

// add reports whether a sight is a new one.
func (v *view) add(s Sight) bool {
	for _, old := range v.sights {
		if below(s.Path, old.Path) {
			return false
		}
	}
	if len(v.sights) == maxSights {
		s.Path = "/"
	}
	v.sights = append(v.sights, s)
	return true
}

// reads are what a vertex does with an input.
type reads struct {
	continues bool     // what it gives has the input's files where they were
	paths     []string // what it reads, clean and absolute
}

func readsOf(vx *graph.Vertex) []reads {
	all := make([]reads, len(vx.Inputs))
	everything := func() []reads {
		for i := range all {
			all[i].paths = []string{"/"}
		}
		return all
	}
	switch op := vx.Op.Op.(type) {
	case *pb.Op_File:
		usage, err := fileop.Usage(op.File, len(vx.Inputs))
		if err != nil {
			return everything() // evaluating it will tell
		}
		for i, u := range usage {
			all[i].continues = u.Whole
			for _, c := range u.Copies {
				all[i].paths = append(all[i].paths, selected(c)...)
			}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.Input < 0 || int(m.Input) >= len(all) {
				continue
			}
			in := &all[m.Input]
			switch {
			case m.Dest == pb.RootMount && clean(m.Selector) == "/":
				in.continues = true
			case m.Output != int64(pb.SkipOutput) || m.ContentCache == pb.MountContentCache_OFF:
				in.paths = append(in.paths, "/")
			default:
				in.paths = append(in.paths, clean(m.Selector))
			}
		}
	case *pb.Op_Merge, *pb.Op_Diff, *pb.Op_Passthrough:
		for i := range all {
			all[i].continues = true
		}
	default:
		return everything()
	}
	return all
}

// selected are the places that a copy reads. Of a pattern it is the directory that it begins in.
func selected(c *pb.FileActionCopy) []string {
	src := clean(c.Src)
	if c.AllowWildcard || c.AllowEmptyWildcard {
		src = fixed(src)
	}
	if !c.DirCopyContents || len(c.IncludePatterns) == 0 {
		return []string{src}
	}
	var all []string
	for _, p := range c.IncludePatterns {
		if strings.HasPrefix(p, "!") {
			continue
		}
		all = append(all, fixed(clean(path.Join(src, p))))
	}
	return all
}

// fixed is the part of a pattern before the component with the first sign that has a meaning.
func fixed(pattern string) string {
	i := strings.IndexAny(pattern, `*?[\`)
	if i < 0 {
		return pattern
	}
	return clean(pattern[:strings.LastIndex(pattern[:i], "/")+1])
}

// maxNamed is how many files of one process are looked at that it names.
const maxNamed = 50

// namedBy are files that the words of a process name: it may copy them, or remove them, which with a mount is not what it is without. Counted are
// those of which the name is hidden, or three or more components deep: others name what everybody does, /usr/bin, /root and /app.
func (v *Views) namedBy(meta *pb.Meta) (all []string) {
	vars := variables(Step{Env: meta.GetEnv(), Home: "/root"})
	home := func(rest string) string { return path.Clean(vars["HOME"] + "/" + rest) }
	given := func(name string) bool {
		return slices.ContainsFunc(v.Given, func(dir string) bool {
			if rest, ok := strings.CutPrefix(dir, "~"); ok {
				dir = home(rest)
			}
			return Overlap(name, path.Clean(dir))
		})
	}
	for _, w := range commandWords(meta.GetArgs()) {
		if len(all) == maxNamed {
			break
		}
		if rest, ok := strings.CutPrefix(w, "HOME/"); ok { // "~", "$" and "{" are no parts of words
			w = home(rest)
		} else if strings.HasPrefix(w, "/.") {
			w = home(w)
		}
		if w = path.Clean(w); path.IsAbs(w) && (strings.Contains(w, "/.") || strings.Count(w, "/") > 2) && !given(w) {
			all = append(all, w)
		}
	}
	return all
}

func clean(name string) string { return path.Clean("/" + name) }

// describe names an instruction and its place.
func describe(vx *graph.Vertex) string {
	name := vx.Name()
	if _, rest, ok := strings.Cut(name, "] "); ok && strings.HasPrefix(name, "[") {
		name = rest
	}
	if len(vx.Sources) > 0 && len(vx.Sources[0].GetRanges()) > 0 {
		name += fmt.Sprintf(" at %s:%d", vx.Sources[0].GetInfo().GetFilename(), vx.Sources[0].GetRanges()[0].GetStart().GetLine())
	}
	return name
}
