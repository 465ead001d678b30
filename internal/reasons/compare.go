package reasons

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Comparison is of a build with an earlier one.
type Comparison struct {
	before, now *Build
	arguments   []string
	pairs       map[int]int
	differs     map[int][]Reason // vertices of now that were compared
	// Files compares files that two digests are of; nil, and what it returns nil for, is not known.
	Files func(before, after digest.Digest) *FileDiff
}

// Compare compares builds. before may be nil: nothing is known of an earlier one.
func Compare(before, now *Build) *Comparison {
	if before == nil || !before.Valid() || !now.Valid() {
		return &Comparison{now: now}
	}
	if before.Codes != now.Codes && before.Codes != "" && now.Codes != "" {
		before, now = before.uncoded(), now.uncoded()
	}
	return &Comparison{before: before, now: now, arguments: slices.Concat(before.Arguments, now.Arguments), pairs: align(before, now), differs: map[int][]Reason{}}
}

// Known reports whether there is an earlier build.
func (c *Comparison) Known() bool { return c.before != nil }

// Was is the vertex of the earlier build that was the same step, if there was one.
func (c *Comparison) Was(vertex int) (*Vertex, bool) {
	i, ok := c.pairs[vertex]
	if !ok {
		return nil, false
	}
	return &c.before.Vertices[i], true
}

// maxDepth bounds how many steps a reason goes back.
const maxDepth = 100

// Step says in what a vertex differs from what it was. There are no reasons where nothing does. A step that was not there is [New].
func (c *Comparison) Step(vertex int) []Reason { return c.step(vertex, maxDepth) }

// maxReasons bounds how many a step has: of many inputs each may have as many.
const maxReasons = 100

// step compares a vertex, once: it may be below others in many ways.
func (c *Comparison) step(vertex, depth int) []Reason {
	all, known := c.differs[vertex]
	if !known {
		all = c.compare(vertex, depth)
		told := map[string]bool{}
		all = slices.DeleteFunc(all, func(r Reason) bool {
			again := told[r.Text]
			told[r.Text] = true
			return again
		})
		all = all[:min(len(all), maxReasons)]
		c.differs[vertex] = all
	}
	return all
}

func (c *Comparison) compare(vertex, depth int) []Reason {
	v := &c.now.Vertices[vertex]
	was, ok := c.Was(vertex)
	if !ok {
		return []Reason{{Kind: New, Text: "it is new"}}
	}
	if was.Key == v.Key && v.Key != "" || len(v.Lines) == 0 || len(was.Lines) == 0 {
		return nil
	}
	b, a := was.Lines, v.Lines
	all := one(Platform, "platform", labelPlatform, b, a)
	if f := one(Fidelity, "how steps are isolated", labelFidelity, b, a); len(f) > 0 {
		f[0].Text = fmt.Sprintf("steps are isolated in another way: %s -> %s", mode(f[0].Before), mode(f[0].After))
		all = append(all, f...)
	}
	env := environment(b, a, c.arguments)
	own := c.own(was, v, env)
	all = append(append(all, env...), own...)
	for _, l := range []struct {
		kind        Kind
		what, label string
	}{{Directory, "working directory", labelDirectory}, {User, "user", labelUser}, {Network, "network", labelNetwork}} {
		all = append(all, one(l.kind, l.what, l.label, b, a)...)
	}
	inputs := c.inputs(vertex, was, v, depth)
	if len(own) > 0 && own[0].Kind == Instruction { // which says which files it reads, and what counts of them
		inputs = slices.DeleteFunc(inputs, func(r Reason) bool { return r.Kind == Files })
	}
	all = append(all, inputs...)
	if len(all) == 0 && !slices.Equal(b, a) {
		all = append(all, Reason{Kind: Option, Text: "an option of the instruction changed"})
	}
	return all
}

// mode is a way of isolation: that of root has no name in keys.
func mode(fidelity string) string { return cmp.Or(fidelity, "as root") }

// own compares the operation itself. What follows from another text is not told beside it, nor a text that variables have changed, which
// displays have in it.
func (c *Comparison) own(was, v *Vertex, env []Reason) []Reason {
	b, a := was.Lines, v.Lines
	if source := sourceChange(was, v); source != nil {
		return []Reason{*source}
	}
	if old, text := Step(was.Name), Step(v.Name); old != text && !slices.Equal(b, a) && !isSource(v) {
		for _, r := range env {
			if r.Before != "" {
				old = strings.ReplaceAll(old, r.Before, r.After)
			}
		}
		if old == text {
			return nil
		}
		old = Step(was.Name)
		return []Reason{{Kind: Instruction, Before: old, After: text, Text: fmt.Sprintf("instruction changed: %s -> %s", shown(old), shown(text))}}
	}
	return slices.Concat(commands(b, a), mounts(b, a), actions(b, a))
}

// IsStep reports whether a vertex is an operation whose key is known, and no source.
func (v *Vertex) IsStep() bool { return len(v.Lines) > 0 && !isSource(v) }

// isSource reports whether a vertex is a source.
func isSource(v *Vertex) bool {
	switch value(v.Lines, "operation") {
	case "image", "git", "http", "local":
		return true
	}
	return false
}

// sourceChange is in what a source differs: nil for an operation that is none, and for one that does not.
func sourceChange(was, v *Vertex) *Reason {
	b, a := was.Lines, v.Lines
	operation := value(a, "operation")
	if operation != value(b, "operation") {
		return nil
	}
	switch operation {
	case "image":
		return imageChange(was, v)
	case "git":
		if x, y := value(b, labelCommit), value(a, labelCommit); x != y {
			return &Reason{Kind: Source, Name: v.Name, Before: x, After: y, Text: fmt.Sprintf("commit of %s moved: %s -> %s", shown(urlIn(v.Name)), shown(x), shown(y))}
		}
	case "http":
		if x, y := value(b, labelContent), value(a, labelContent); x != y {
			return &Reason{Kind: Source, Name: v.Name, Before: x, After: y, Text: fmt.Sprintf("%s is another file: %s -> %s", shown(urlIn(v.Name)), x, y)}
		}
	}
	return nil
}

// urlIn is the URL in the name of a source, which is that of the instruction that reads it.
func urlIn(name string) string {
	for _, word := range strings.Fields(name) {
		if strings.Contains(word, "://") {
			return word
		}
	}
	return strings.TrimPrefix(Step(name), "[internal] load git source ")
}

// imageChange is in what an image differs: by its name, or by what that stands for.
func imageChange(was, v *Vertex) *Reason {
	x, y := value(was.Lines, labelManifest), value(v.Lines, labelManifest)
	if x == y {
		return nil
	}
	before, after := imageName(was.Name), imageName(v.Name)
	if before != after {
		return &Reason{Kind: Image, Name: after, Before: before, After: after, Text: fmt.Sprintf("base image changed: %s -> %s", shown(before), shown(after))}
	}
	r := &Reason{Kind: Image, Name: after, Before: x, After: y}
	if value(was.Lines, labelPlatform) != value(v.Lines, labelPlatform) {
		r.Text = fmt.Sprintf("base image %s is that of another platform", shown(after))
	} else {
		r.Text = fmt.Sprintf("base image %s moved from %s to %s", shown(after), x, y)
	}
	return r
}

// imageName is the reference of an image in the name of a step: without "FROM" and the digest.
func imageName(name string) string {
	ref := strings.TrimPrefix(Step(name), "FROM ")
	ref, _, _ = strings.Cut(ref, "@sha256:")
	ref = strings.TrimPrefix(ref, "docker-image://")
	return strings.TrimPrefix(strings.TrimPrefix(ref, "docker.io/"), "library/")
}

// inputs compares what a step stands on, and the files that it reads.
func (c *Comparison) inputs(vertex int, was, v *Vertex, depth int) (all []Reason) {
	for i, in := range v.Inputs {
		if after := value(v.Lines, filesLine(i)); after != "" {
			before := value(was.Lines, filesLine(i))
			if before != after && before != "" {
				all = append(all, c.files(in, digest.Digest(before), digest.Digest(after)))
			}
			continue
		}
		if value(v.Lines, inputLine(i)) != value(was.Lines, inputLine(i)) {
			all = append(all, c.input(in, was, i, depth)...)
		}
	}
	return all
}

// files says which files differ that are read of an input.
func (c *Comparison) files(in int, before, after digest.Digest) Reason {
	from := ""
	if in >= 0 {
		v := &c.now.Vertices[in]
		if was, ok := c.Was(in); ok && value(v.Lines, "operation") == "http" {
			if r := sourceChange(was, v); r != nil {
				return *r
			}
		}
		if p := placeOf(v.Name); p.number > 0 && value(v.Lines, "operation") != "image" {
			from = "the stage"
			if p.stage != "0" {
				from = p.stage
			}
		}
	}
	var d *FileDiff
	if c.Files != nil {
		d = c.Files(before, after)
	}
	if d == nil {
		what := "files changed"
		if from != "" {
			what = "files of " + shown(from) + " changed"
		}
		return Reason{Kind: Files, Name: from, Text: what}
	}
	return Reason{Kind: Files, Name: from, Files: d, Text: d.text(from)}
}

// input says in what the step differs that another one stands on.
func (c *Comparison) input(in int, was *Vertex, i, depth int) []Reason {
	old := -1
	if i < len(was.Inputs) {
		old = was.Inputs[i]
	}
	if in < 0 || depth == 0 {
		return []Reason{{Kind: Removed, Text: "what it stands on changed"}}
	}
	v := &c.now.Vertices[in]
	pair, aligned := c.pairs[in]
	switch {
	case !aligned:
		return []Reason{{Kind: Inserted, Name: v.Name, Text: fmt.Sprintf("%s was inserted before it", shown(Step(v.Name)))}}
	case old >= 0 && pair != old && !c.isPaired(old):
		gone := c.before.Vertices[old].Name
		return []Reason{{Kind: Removed, Name: gone, Text: fmt.Sprintf("%s is not before it any more", shown(Step(gone)))}}
	}
	because := c.step(in, depth-1)
	switch {
	case len(because) == 0:
		return []Reason{{Kind: Input, Name: v.Name, Text: fmt.Sprintf("it stands on another step: %s", shown(Step(v.Name)))}}
	case isSource(v) || because[0].Kind == Inserted || because[0].Kind == Removed || because[0].Kind == Input || because[0].Kind == Image || because[0].Kind == Platform:
		return because
	}
	return []Reason{{Kind: Input, Name: v.Name, Because: because, Text: fmt.Sprintf("%s before it is another one: %s", shown(Step(v.Name)), text(because))}}
}

// isPaired reports whether a vertex of the earlier build is still a step.
func (c *Comparison) isPaired(old int) bool {
	for _, i := range c.pairs {
		if i == old {
			return true
		}
	}
	return false
}

// Lines says in what two keys differ of which nothing but the lines is known.
func Lines(before, after []string) []Reason {
	b := &Build{Vertices: []Vertex{{Lines: before}}}
	c := Compare(b, &Build{Vertices: []Vertex{{Lines: after}}})
	all := c.step(0, 0)
	for _, l := range after {
		label, _, _ := strings.Cut(l, " ")
		if label != labelInput && !strings.HasPrefix(l, labelFiles) || slices.Contains(before, l) {
			continue
		}
		all = slices.DeleteFunc(all, func(r Reason) bool { return r.Kind == Option })
		if label == labelInput {
			return append(all, Reason{Kind: Input, Text: "what it stands on changed"})
		}
		return append(all, Reason{Kind: Files, Text: "files changed"})
	}
	return all
}
