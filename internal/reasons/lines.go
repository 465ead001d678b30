package reasons

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slipway-build/slipway/internal/terminal"
)

// The labels of lines that a key of an operation has: see the engine's key.go.
const (
	labelPlatform    = "platform"
	labelFidelity    = "fidelity"
	labelCommand     = "command"
	labelEnvironment = "environment"
	labelDirectory   = "directory"
	labelUser        = "user"
	labelNetwork     = "network"
	labelMount       = "mount"
	labelAction      = "action"
	labelManifest    = "manifest"
	labelCommit      = "commit"
	labelContent     = "content"
	labelDefinition  = "definition"
	labelInput       = "input"
	labelFiles       = "files of input"
)

// values are the values of lines with some label. Of the lines of inputs, that of one is of the label with its number.
func values(lines []string, label string) (all []string) {
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, label+" "); ok {
			all = append(all, v)
		} else if l == label {
			all = append(all, "")
		}
	}
	return all
}

func value(lines []string, label string) string {
	if all := values(lines, label); len(all) > 0 {
		return all[0]
	}
	return ""
}

func inputLine(i int) string { return labelInput + " " + strconv.Itoa(i) }
func filesLine(i int) string { return labelFiles + " " + strconv.Itoa(i) }

// maxShown is how many letters of a value a reason has.
const maxShown = 80

// shown is a value as a part of a line.
func shown(v string) string {
	if v == "" {
		return `""`
	}
	if v = terminal.Line(v); utf8.RuneCountInString(v) > maxShown {
		v = terminal.Short(v, maxShown)
	}
	return v
}

// changed is a reason for a value that is another one.
func changed(k Kind, what, before, after string) Reason {
	return Reason{Kind: k, Before: before, After: after, Text: fmt.Sprintf("%s changed: %s -> %s", what, shown(before), shown(after))}
}

// one compares lines of which there is one.
func one(k Kind, what, label string, before, after []string) (all []Reason) {
	b, a := value(before, label), value(after, label)
	if b != a {
		all = append(all, changed(k, what, b, a))
	}
	return all
}

// commands compares what is run. Of a long text it is the lines that differ.
func commands(before, after []string) []Reason {
	all := one(Command, "command", labelCommand, before, after)
	if len(all) == 0 {
		return nil
	}
	x, xerr := strconv.Unquote(all[0].Before)
	y, yerr := strconv.Unquote(all[0].After)
	if xerr != nil || yerr != nil {
		return all
	}
	was, is := strings.Split(x, "\n"), strings.Split(y, "\n")
	for len(was) > 1 && len(is) > 1 && was[0] == is[0] {
		was, is = was[1:], is[1:]
	}
	for len(was) > 1 && len(is) > 1 && was[len(was)-1] == is[len(is)-1] {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	return []Reason{changed(Command, "command", strings.Join(was, "; "), strings.Join(is, "; "))}
}

// variable is a line of an environment: its value, or a code of it.
type variable struct{ name, value, code string }

func variables(lines []string) (all []variable) {
	for _, l := range values(lines, labelEnvironment) {
		if text, err := strconv.Unquote(l); err == nil {
			l = text
		}
		name, code, coded := strings.Cut(l, " ~")
		if coded && !strings.Contains(name, "=") {
			all = append(all, variable{name: strings.TrimPrefix(name, `"`), code: code})
			continue
		}
		v := variable{}
		v.name, v.value, _ = strings.Cut(l, "=")
		all = append(all, v)
	}
	return all
}

// environment compares variables. Which of them are build arguments only the builds know.
func environment(before, after []string, arguments []string) (all []Reason) {
	was, is := variables(before), variables(after)
	find := func(in []variable, name string) int {
		return slices.IndexFunc(in, func(v variable) bool { return v.name == name })
	}
	reason := func(name, format string, args ...any) Reason {
		kind, what := Environment, "environment variable "
		if slices.Contains(arguments, name) {
			kind, what = Argument, "build argument "
		}
		return Reason{Kind: kind, Name: name, Text: what + shown(name) + " " + fmt.Sprintf(format, args...)}
	}
	for _, v := range is {
		i := find(was, v.name)
		switch {
		case i < 0 && v.code != "":
			all = append(all, reason(v.name, "is new"))
		case i < 0:
			r := reason(v.name, "is new: %s", shown(v.value))
			r.After = v.value
			all = append(all, r)
		case was[i] == v:
		case v.code != "" || was[i].code != "":
			all = append(all, reason(v.name, "changed"))
		default:
			r := reason(v.name, "changed %s -> %s", shown(was[i].value), shown(v.value))
			r.Before, r.After = was[i].value, v.value
			all = append(all, r)
		}
	}
	for _, v := range was {
		if find(is, v.name) < 0 {
			all = append(all, reason(v.name, "is gone"))
		}
	}
	return all
}

// mounts compares mounts by where they are.
func mounts(before, after []string) (all []Reason) {
	byPlace := func(lines []string) (places []string, of map[string]string) {
		of = map[string]string{}
		for _, v := range values(lines, labelMount) {
			at, rest, _ := strings.Cut(v, " ")
			if _, more := of[at]; !more {
				places = append(places, at)
			}
			of[at] += rest
		}
		return places, of
	}
	_, was := byPlace(before)
	places, is := byPlace(after)
	for _, at := range places {
		switch old, there := was[at]; {
		case !there:
			all = append(all, Reason{Kind: Mount, Name: at, After: is[at], Text: "mount at " + shown(at) + " is new"})
		case old != is[at]:
			all = append(all, Reason{Kind: Mount, Name: at, Before: old, After: is[at], Text: "mount at " + shown(at) + " changed"})
		}
	}
	places, _ = byPlace(before)
	for _, at := range places {
		if _, there := is[at]; !there {
			all = append(all, Reason{Kind: Mount, Name: at, Before: was[at], Text: "mount at " + shown(at) + " is gone"})
		}
	}
	return all
}

// actions compares what a file operation does, beside the files.
func actions(before, after []string) []Reason {
	was, is := values(before, labelAction), values(after, labelAction)
	if slices.Equal(was, is) {
		return nil
	}
	return []Reason{changed(Action, "what it does", strings.Join(was, ", "), strings.Join(is, ", "))}
}
