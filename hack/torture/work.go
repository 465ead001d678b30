package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// deed is a command, and what it does to the names when it worked; when it did not end, it may have.
type deed struct {
	args []string
	then func(s *store, c result)
}

// pick chooses what is done next, of what can be done; in a fifth of the cases one of others, if there are any.
func (s *store) pick(others ...func() deed) deed {
	for {
		d, ok := s.tryPick()
		if len(others) > 0 && s.rng.IntN(5) == 0 {
			d, ok = oneOf(s.round, others...)(), true
		}
		if ok && s.deeds.MatchString(strings.Join(d.args, " ")) {
			return d
		}
	}
}

func (s *store) tryPick() (deed, bool) {
	switch n := s.rng.IntN(100); {
	case n < 40:
		return s.build(), true
	case n < 45:
		return named(busybox, "*", "pull", "busybox"), true
	case n < 52:
		return named("app", s.truths["app"].id, "load", "-i", s.path("app.tar")), true
	case n < 58:
		from := s.someImage()
		to := oneOf(s.round, "tag:1", "tag:2")
		return named(to, s.names[from].sure(), "tag", from, to), from != ""
	case n < 64:
		name := s.someImage()
		return gone(s.names, name, "rmi", "-f", name), name != "" && !s.inUse()
	case n < 68:
		return deed{args: []string{"image", "prune", "-f"}}, true
	case n < 76:
		return deed{args: []string{"builder", "prune", "-af"}, then: s.lostKept}, true
	case n < 80:
		return deed{args: []string{"system", "prune", "-f"}, then: s.lostStopped}, true
	default:
		return s.withContainers()
	}
}

// lostStopped is what system prune does: containers that do not run go.
func (s *store) lostStopped(_ *store, c result) {
	for name, had := range s.containers {
		if c.ok() {
			s.containers[name] = only("")
		} else {
			s.containers[name] = had.or("")
		}
	}
}

func (s *store) build() deed {
	recipe := oneOf(s.round, slices.Sorted(maps.Keys(recipes))...)
	name := oneOf(s.round, recipe, recipe+":other")
	args := []string{"build", "-q", "-t", name, s.path("contexts", recipe)}
	if s.rng.IntN(2) == 0 {
		args = slices.Insert(args, 1, "--no-cache")
	}
	return named(name, s.truths[recipe].id, args...)
}

func (s *store) withContainers() (deed, bool) {
	image, c := s.someImage(), oneOf(s.round, "one", "two")
	if strings.HasPrefix(image, "lib") || s.names[image].has(s.truths["lib"].id) {
		return deed{}, false
	}
	switch s.rng.IntN(6) {
	case 0, 1:
		had := s.containers[c]
		d := deed{args: []string{"create", "--network", "none", "--name", c, image, "true"}}
		d.then = func(s *store, done result) { set(s.containers, c, "there", done.ok()) }
		return d, image != "" && (had == nil || len(had) == 1 && had[0] == "")
	case 2:
		return gone(s.containers, c, "rm", c), s.containers[c].sure() != ""
	case 3:
		return deed{args: []string{"cp", s.path("contexts", "app", "src"), c + ":/copied"}}, s.containers[c].sure() != ""
	case 4:
		return named("committed", "*", "commit", c, "committed"), s.containers[c].sure() != ""
	default:
		return deed{args: []string{"run", "--rm", "--network", "none", image, "true"}}, image != ""
	}
}

// inUse reports whether there may be containers, whose images cannot be removed.
func (s *store) inUse() bool {
	for name, a := range s.containers {
		if name == s.slot { // it stands on no image that has a name
			continue
		}
		if a.sure() != "" || len(a) > 1 {
			return true
		}
	}
	return false
}

// someImage is an image that is there for sure, or "".
func (s *store) someImage() string {
	var there []string
	for name, a := range s.names {
		if a.sure() != "" {
			there = append(there, name)
		}
	}
	if len(there) == 0 {
		return ""
	}
	slices.Sort(there)
	return oneOf(s.round, there...)
}

// named is a command that gives an image a name.
func named(name, id string, args ...string) deed {
	return deed{args, func(s *store, c result) { set(s.names, name, id, c.ok()) }}
}

// gone is a command that takes a name away.
func gone(from map[string]allowed, name string, args ...string) deed {
	return deed{args, func(s *store, c result) { set(from, name, "", c.ok()) }}
}

func set(in map[string]allowed, name, value string, done bool) {
	if done {
		in[name] = only(value)
	} else {
		in[name] = in[name].or(value)
	}
}

// do does a deed in peace, or with words around the command.
func (s *store) do(ctx context.Context, d deed, around ...string) (result, error) {
	c := s.exec(ctx, around, d.args...)
	return c, s.account(d, c)
}

// account notes what a command did, and looks at what it says.
func (s *store) account(d deed, c result) error {
	if d.then != nil {
		d.then(s, c)
	}
	if d.args[0] == "build" && c.ok() {
		recipe := d.args[len(d.args)-1]
		recipe = recipe[strings.LastIndexByte(recipe, '/')+1:]
		if id := strings.TrimSpace(c.out); id != s.truths[recipe].id {
			return fmt.Errorf("a wrong image: %s gave %s, not %s", c, id, s.truths[recipe].id)
		}
	}
	return s.sane(c)
}
