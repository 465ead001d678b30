// Package stages splits a Dockerfile into parts that can be built at the same time, on different machines.
package stages

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Part is one stage of a Dockerfile, or several of which each needs nothing but the one before it, and nothing else needs that.
type Part struct {
	// Target is the last of its stages, as --target takes it.
	Target string
	// Needs are the parts whose files it reads, which stand before it in the list.
	Needs []*Part
	// Runs says that it has a RUN.
	Runs bool
	// Fixed says that its stages have the platform of the builder, not the target's.
	Fixed bool
	// Targeted says that it may depend on the target's platform.
	Targeted bool
}

// ErrUnknown is that the stages of a Dockerfile cannot be told without building it.
var ErrUnknown = errors.New("which stages need each other cannot be told")

// Options are those of a build that say what its stages are.
type Options struct {
	Target   string            // a name or a number; "" is the last stage
	Args     map[string]string // --build-arg
	Platform map[string]string // TARGETPLATFORM, BUILDPLATFORM and the others that each Dockerfile has; nil: what the builder has
	Contexts []string          // the names of --build-context, which take the place of stages and images
}

// Split gives the parts that a target needs, in an order in which they can be built; the last one has the target. Stages without RUN belong to the parts
// that need them.
func Split(dockerfile []byte, o Options) ([]*Part, error) {
	all, err := read(dockerfile, o)
	if err != nil {
		return nil, err
	}
	last := len(all) - 1
	if o.Target != "" {
		if last = find(all, o.Target, len(all)); last < 0 {
			return nil, fmt.Errorf("target stage %q could not be found", o.Target) // the frontend's words
		}
	}
	return join(all, last), nil
}

// stage is one stage.
type stage struct {
	name  string
	needs []int // stages
	runs  bool  // it has a RUN
	fixed bool  // it has the builder's platform
	// targeted: it asks for the target's platform, by a variable.
	targeted bool
}

func read(dockerfile []byte, o Options) ([]stage, error) {
	if syntax, _, _, ok := parser.DetectSyntax(dockerfile); ok && !strings.Contains(syntax, "docker/dockerfile") {
		return nil, fmt.Errorf("%w: %s reads the Dockerfile", ErrUnknown, syntax)
	}
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil, err
	}
	if syntax := o.Args["BUILDKIT_SYNTAX"]; syntax != "" {
		return nil, fmt.Errorf("%w: %s reads the Dockerfile", ErrUnknown, syntax)
	}
	read, metaArgs, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	if len(read) == 0 {
		return nil, errors.New("dockerfile contains no stages to build") // the frontend's words
	}
	x, err := newExpander(parsed.EscapeToken, metaArgs, o)
	if err != nil {
		return nil, err
	}
	var all []stage
	for i := range read {
		s, refs, err := readStage(&read[i], x)
		if err != nil {
			return nil, err
		}
		if s.name != "" && o.replaced(s.name) {
			all = append(all, stage{name: s.name})
			continue
		}
		for j, ref := range refs {
			n := find(all, ref.name, i)
			if n < 0 || numeric(ref.name) && !ref.numbers || o.replaced(ref.name) {
				continue
			}
			if j == 0 && read[i].Platform == "" { // as the frontend has it
				s.fixed = all[n].fixed
			}
			if !slices.Contains(s.needs, n) {
				s.needs = append(s.needs, n)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// replaced reports whether a named context stands for a stage.
func (o *Options) replaced(name string) bool {
	return slices.ContainsFunc(o.Contexts, func(c string) bool {
		c, _, _ = strings.Cut(c, ":") // it may have a tag and a platform
		return strings.EqualFold(c, name)
	})
}

// ref is what a stage has files of: a stage or an image.
type ref struct {
	name    string
	numbers bool // a number is a stage
}

// readStage reads a stage, and what it has files of: first what it begins with.
func readStage(from *instructions.Stage, x *expander) (s stage, refs []ref, err error) {
	s = stage{name: from.Name}
	if s.fixed, err = x.fixed(from.Platform); err != nil {
		return s, nil, err
	}
	base, err := x.word(from.BaseName)
	if err != nil {
		return s, nil, err
	}
	refs = []ref{{base, false}}
	s.targeted = strings.Contains(from.BaseName, "$TARGET") || strings.Contains(from.BaseName, "${TARGET")
	for _, c := range from.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			if c.From != "" {
				refs = append(refs, ref{c.From, true})
			}
		case *instructions.OnbuildCommand:
			return s, nil, fmt.Errorf("%w: ONBUILD", ErrUnknown)
		case *instructions.ArgCommand:
			for _, a := range c.Args {
				s.targeted = s.targeted || strings.HasPrefix(a.Key, "TARGET")
			}
		case *instructions.RunCommand:
			s.runs = true
			for _, m := range instructions.GetMounts(c) {
				if m.From != "" {
					refs = append(refs, ref{m.From, false})
				}
			}
		}
	}
	for _, r := range refs[1:] {
		if strings.Contains(r.name, "$") {
			return s, nil, fmt.Errorf("%w: %q has a variable", ErrUnknown, r.name)
		}
	}
	return s, refs, nil
}

// expander puts values into words that have global arguments.
type expander struct {
	lex *shell.Lex
	env []string
	// build and target are the builder's platform and the target's; "" is one that is not known.
	build, target string
}

func newExpander(escape rune, metaArgs []instructions.ArgCommand, o Options) (*expander, error) {
	x := &expander{lex: shell.NewLex(escape), build: o.Platform["BUILDPLATFORM"], target: o.Platform["TARGETPLATFORM"]}
	for k, v := range o.Platform {
		if given, ok := o.Args[k]; ok {
			v = given
		}
		x.env = append(x.env, k+"="+v)
	}
	for _, meta := range metaArgs {
		for _, kv := range meta.Args {
			value, given := o.Args[kv.Key]
			if _, ok := o.Platform[kv.Key]; ok && !given && kv.Value == nil {
				continue // it is what it is without this line
			}
			if !given && kv.Value != nil {
				var err error
				if value, err = x.word(*kv.Value); err != nil {
					return nil, err
				}
			}
			x.env = append(x.env, kv.Key+"="+value)
		}
	}
	return x, nil
}

// fixed reports whether a stage has the builder's platform, by what FROM --platform says.
func (x *expander) fixed(word string) (bool, error) {
	const build, target = "the builder's", "the target's"
	value, _, err := x.lex.ProcessWord(word, shell.EnvsFromSlice(append(slices.Clone(x.env), "BUILDPLATFORM="+build, "TARGETPLATFORM="+target)))
	switch {
	case err != nil:
		return false, err
	case value == build || value != "" && value == x.build:
		return true, nil
	case value == target || value == "" || value == x.target:
		return false, nil
	}
	return false, fmt.Errorf("%w: a stage of the platform %s", ErrUnknown, value)
}

func (x *expander) word(word string) (string, error) {
	value, unmatched, err := x.lex.ProcessWord(word, shell.EnvsFromSlice(x.env))
	if err == nil && len(unmatched) > 0 { // of the platform, say
		err = fmt.Errorf("%w: %q has a variable", ErrUnknown, word)
	}
	return value, err
}

// find gives the last stage before one with a name or number; -1: none.
func find(all []stage, name string, before int) int {
	for i := before - 1; i >= 0; i-- {
		if all[i].name != "" && strings.EqualFold(all[i].name, name) {
			return i
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < before {
		return n
	}
	return -1
}

func numeric(name string) bool {
	_, err := strconv.Atoi(name)
	return err == nil
}

// join makes parts of the stages that a target needs.
func join(all []stage, target int) []*Part {
	needed := make([]bool, len(all))
	needed[target] = true
	for i := target; i >= 0; i-- {
		for _, n := range all[i].needs {
			needed[n] = needed[n] || needed[i]
		}
	}
	of, users := make([]*Part, len(all)), make([]int, len(all))
	waits := waitsFor(all)
	for i := range all {
		if needed[i] && (all[i].runs || i == target) {
			for _, n := range waits[i] {
				users[n]++
			}
		}
	}
	var parts []*Part
	for i := range all {
		if !needed[i] || !all[i].runs && i != target {
			continue
		}
		if w := waits[i]; len(w) == 1 && users[w[0]] == 1 && all[i].fixed == all[w[0]].fixed {
			of[i] = of[w[0]] // it goes on where nobody else does
		} else {
			of[i] = &Part{Fixed: all[i].fixed}
			for _, n := range w {
				of[i].Needs = append(of[i].Needs, of[n])
				of[i].Targeted = of[i].Targeted || of[n].Targeted
			}
			parts = append(parts, of[i])
		}
		of[i].add(all, i)
	}
	return parts
}

// waitsFor gives for each stage those with a RUN that it needs, itself or through stages without one.
func waitsFor(all []stage) [][]int {
	waits := make([][]int, len(all))
	for i := range all {
		for _, n := range all[i].needs {
			if all[n].runs {
				waits[i] = append(waits[i], n)
			} else {
				waits[i] = append(waits[i], waits[n]...)
			}
		}
		slices.Sort(waits[i])
		waits[i] = slices.Compact(waits[i])
	}
	return waits
}

// add makes a stage the last one of a part.
func (p *Part) add(all []stage, i int) {
	p.Runs, p.Targeted = p.Runs || all[i].runs, p.Targeted || targeted(all, i)
	p.Target = strconv.Itoa(i)
	if name := all[i].name; name != "" && find(all, name, len(all)) == i {
		p.Target = name
	}
}

// targeted reports whether a stage, or one without RUN that it needs, asks for the target's platform.
func targeted(all []stage, i int) bool {
	return all[i].targeted || slices.ContainsFunc(all[i].needs, func(n int) bool { return !all[n].runs && targeted(all, n) })
}
