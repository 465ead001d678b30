// Package reasons says why steps of a build ran again: it compares what their keys were made of with what they were made of in an
// earlier build of the same thing.
//
// # Structure
//
// A [Build] is what a build leaves of its graph: a [Vertex] per operation, with the labelled lines of its key. [Compare] finds which
// vertices of two builds are the same step (align.go), and [Comparison.Step] in what one differs from what it was (compare.go,
// lines.go). Both builds may be long over: nothing is looked at but what they left.
//
// # Caveats
//
// Lines come from records, and from caches of others: what is wrong with them gives a wrong reason, and nothing else.
package reasons

import (
	"slices"
	"strings"
)

// Kind is a kind of reason.
type Kind string

// The kinds. The fields of a [Reason] that each of them has stand behind it.
const (
	New         Kind = "new"         // the step was not in the earlier build
	NoCache     Kind = "no-cache"    // its cache was to be ignored
	Pruned      Kind = "pruned"      // nothing changed, and the result is not in the store any more
	Damaged     Kind = "damaged"     // so is the result
	Unfinished  Kind = "unfinished"  // nothing changed, and the earlier build failed in it, or before it
	Imported    Kind = "imported"    // the imported caches do not have it: Name
	Unimported  Kind = "unimported"  // the earlier build had it by a cache that this one does not import: Name
	Warm        Kind = "warm"        // the earlier build made it warm, and this one may not have that
	Platform    Kind = "platform"    // Before, After
	Fidelity    Kind = "mode"        // the way in which steps are isolated: Before, After
	Instruction Kind = "instruction" // its text: Before, After
	Command     Kind = "command"     // what is run, with the same text: Before, After
	Argument    Kind = "argument"    // a build argument: Name, and Before and After if they may be told
	Environment Kind = "environment" // a variable: likewise
	Directory   Kind = "directory"   // where it is run: Before, After
	User        Kind = "user"        // as whom: Before, After
	Network     Kind = "network"     // with which network: Before, After
	Mount       Kind = "mount"       // Name is where; Before and After are "" for one that there was or is not
	Action      Kind = "action"      // of a file operation: Before, After
	Image       Kind = "image"       // the base image: Name, and Before and After, its references if these changed, or else its digests
	Source      Kind = "source"      // a repository or a file of a server is another one: Name; Before, After
	Files       Kind = "files"       // files that it reads: Files
	Inserted    Kind = "inserted"    // a step before it is new: Name
	Removed     Kind = "removed"     // a step before it is gone: Name
	Input       Kind = "input"       // a step before it is another one: Name, and Because why that is so
	Option      Kind = "option"      // something else of the instruction
)

// Reason is one thing in which a step differs.
type Reason struct {
	Kind    Kind      `json:"kind"`
	Text    string    `json:"text"` // all of it, in one line
	Name    string    `json:"name,omitempty"`
	Before  string    `json:"before,omitempty"`
	After   string    `json:"after,omitempty"`
	Files   *FileDiff `json:"files,omitempty"`
	Because []Reason  `json:"because,omitempty"`
}

// Why is why a step ran.
type Why struct {
	// Follows is the name of a step before it that ran again: it ran since that one did.
	Follows string `json:"follows,omitempty"`
	// Reasons are in what it differs; of one that follows another there may be none.
	Reasons []Reason `json:"reasons,omitempty"`
}

// Text is all reasons in one line.
func (w *Why) Text() string {
	if w == nil {
		return ""
	}
	if w.Follows != "" {
		return w.Follows + " before it ran again"
	}
	return text(w.Reasons)
}

func text(all []Reason) string {
	var texts []string
	for _, r := range all {
		texts = append(texts, r.Text)
	}
	return strings.Join(texts, "; ")
}

// Told is what a display tells of it, "" for nothing: the first step of a chain has the reason of all, and what there was not before did
// not run again.
func (w *Why) Told() string {
	if w == nil || w.Follows != "" || len(w.Reasons) == 0 || w.Is(New) {
		return ""
	}
	return w.Text()
}

// Is reports whether a reason is the first.
func (w *Why) Is(k Kind) bool { return w != nil && len(w.Reasons) > 0 && w.Reasons[0].Kind == k }

// Vertex is an operation as a build leaves it.
type Vertex struct {
	Name   string `json:"name"`           // "[builder 2/4] RUN make"
	Line   int    `json:"line,omitempty"` // in its Dockerfile, from 1; 0 is not known
	Key    string `json:"key,omitempty"`
	Inputs []int  `json:"inputs,omitempty"` // numbers of vertices of the build; -1 is the empty filesystem
	// Lines are the labelled lines of the key as they may be recorded: see store.Tellable. There are none where the key was not needed.
	Lines []string `json:"lines,omitempty"`
}

// Build is what a build leaves of its graph.
type Build struct {
	// Vertices have their inputs before them.
	Vertices []Vertex `json:"vertices"`
	// Arguments are the names of the build arguments that were given.
	Arguments []string `json:"arguments,omitempty"`
	// Codes names the key that codes of values were made with; "" is not known. Those of another key tell nothing.
	Codes string `json:"codes,omitempty"`
	// Other says that it is of another target or platform than what it is compared with: a stage with another name is another stage.
	Other bool `json:"-"`
}

// uncoded is a build without the codes of values: it has the names alone.
func (b *Build) uncoded() *Build {
	out := *b
	out.Vertices = slices.Clone(b.Vertices)
	for i := range out.Vertices {
		v := &out.Vertices[i]
		v.Lines = slices.Clone(v.Lines)
		for j, l := range v.Lines {
			if name, _, coded := strings.Cut(l, " ~"); coded && strings.HasPrefix(l, labelEnvironment+" ") {
				v.Lines[j] = name + " ~?"
			}
		}
	}
	return &out
}

// Valid reports whether all inputs are vertices before.
func (b *Build) Valid() bool {
	for i, v := range b.Vertices {
		for _, in := range v.Inputs {
			if in < -1 || in >= i {
				return false
			}
		}
	}
	return true
}
