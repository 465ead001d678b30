package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// Earlier is what an earlier build of the same thing left, as far as misses are explained with it.
type Earlier struct {
	*reasons.Build
	// Steps are those that ended without an error, by their keys.
	Steps map[Key]StepRecord
	// Failed are the names of those that failed.
	Failed map[string]bool
	// Error is what it ended with; "" is well.
	Error string
	// Caches are those that it imported.
	Caches []string
	// List gives the list of the files that a digest in one of its keys is of; nil where there is none.
	List func(digest.Digest) *reasons.List
}

// files compares files with those that a build read.
func (e *Earlier) files(r *Run) func(before, after digest.Digest) *reasons.FileDiff {
	return func(before, after digest.Digest) *reasons.FileDiff {
		was, is := e.List(before), r.List(after)
		if is == nil { // it may have been as it was
			is = e.List(after)
		}
		if was == nil || is == nil {
			return nil
		}
		d, err := reasons.DiffFiles(was, is)
		if err != nil {
			return nil
		}
		return d
	}
}

// why says why a node that was not found has to be carried out. Its inputs have been evaluated. damage is what is wrong with its recorded
// result. It never fails: what cannot be found out is not told.
func (r *Run) why(ctx context.Context, n *node, id identity, damage string) *reasons.Why {
	for _, in := range n.inputs {
		if in.n == nil {
			continue
		}
		// What reads files of a source has them for a reason: a repository that moved may have the same ones.
		if ran := in.n.ran.Load(); ran != nil && !ran.Is(reasons.New) && !(ran.Is(reasons.Source) && in.n.isSource()) {
			return &reasons.Why{Follows: in.n.v.Name()}
		}
	}
	one := func(k reasons.Kind, name, text string) *reasons.Why {
		return &reasons.Why{Reasons: []reasons.Reason{{Kind: k, Name: name, Text: text}}}
	}
	e := r.before()
	switch {
	case damage != "":
		return one(reasons.Damaged, "", damage)
	case e == nil && !id.fresh && len(r.believed()) > 0:
		return &reasons.Why{Reasons: r.notImported(ctx, n, id)}
	case e == nil:
		return one(reasons.New, "", "it has not run before")
	}
	b, numbers, err := r.graph()
	if err != nil {
		return one(reasons.Option, "", "unknown: "+err.Error())
	}
	c := reasons.Compare(e.Build, b)
	c.Files = e.files(r)
	if _, there := c.Was(numbers[n]); !there {
		return one(reasons.New, "", "it is new")
	}
	if id.fresh {
		return one(reasons.NoCache, "", r.ignored())
	}
	if all := c.Step(numbers[n]); len(all) > 0 {
		return &reasons.Why{Reasons: all}
	}
	return r.lost(e, n, id)
}

func (r *Run) ignored() string {
	if r.opt.Ignored != "" {
		return r.opt.Ignored
	}
	return "its cache is ignored"
}

// lost says why there is no result of a step in which nothing changed.
func (r *Run) lost(e *Earlier, n *node, id identity) *reasons.Why {
	k, name, text := reasons.Pruned, "", "pruned: its result is not in the store any more"
	was, done := e.Steps[id.key]
	imports := r.importNames()
	switch {
	case e.Failed[n.v.Name()]:
		k, text = reasons.Unfinished, "it failed in the build before"
	case e.Error != "" && !done:
		k, text = reasons.Unfinished, "the build before ended before it was done"
	case len(was.Warm) > 0:
		k, text = reasons.Warm, "the build before ran it with --warm, and its files have to be whole here"
	case was.From != "" && !slices.Contains(imports, was.From):
		k, name, text = reasons.Unimported, was.From, fmt.Sprintf("the build before had it from the cache %s, which this one does not import", was.From)
	case len(e.Caches) > 0 && strings.Join(imports, "\n") != strings.Join(e.Caches, "\n"):
		k, name = reasons.Unimported, strings.Join(e.Caches, ", ")
		text = fmt.Sprintf("the build before made it on what it imported from the cache %s, and this one imports others", name)
	case len(imports) > 0:
		k, name = reasons.Imported, strings.Join(imports, ", ")
		text = fmt.Sprintf("it is neither in the store any more nor in the cache %s", name)
	}
	return &reasons.Why{Reasons: []reasons.Reason{{Kind: k, Name: name, Text: text}}}
}

// importNames are the names of the caches that the run imports.
func (r *Run) importNames() (names []string) {
	for _, f := range r.believes.Load().foreign {
		names = append(names, f.Name())
	}
	return names
}

// notImported says why the caches that a run imports do not have a step of which nothing is known here.
func (r *Run) notImported(ctx context.Context, n *node, id identity) []reasons.Reason {
	name := strings.Join(r.importNames(), ", ")
	last := r.foreignLines(ctx, n)
	if last == nil {
		return []reasons.Reason{{Kind: reasons.Imported, Name: name, Text: fmt.Sprintf("the cache %s does not have it", name)}}
	}
	all := reasons.Lines(last, store.WithoutValues(id.lines...))
	for i := range all {
		if all[i].Kind == reasons.Option {
			all[i].Text = "a value of the environment or an option of the instruction changed"
		}
		all[i].Text = fmt.Sprintf("not in the cache %s: %s", name, all[i].Text)
	}
	if len(all) == 0 {
		all = []reasons.Reason{{Kind: reasons.Imported, Name: name, Text: fmt.Sprintf("the cache %s does not have its result", name)}}
	}
	return all
}
