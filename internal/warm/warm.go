// Package warm knows where tools keep what they need not make or download again, and where in a graph nobody would see that it is kept
// elsewhere. It reads no files: what a step's filesystem has is asked of the caller.
//
// # Structure
//
//	table.go   tools, the commands that they are known by, and their directories
//	warm.go    the directories of one step
//	views.go   who sees which files of which step, in a graph
package warm

import (
	"path"
	"slices"
	"strings"
)

// Step is a process as far as the directories of its tools depend on it.
type Step struct {
	Args, Env []string // as in an exec operation
	UID       uint32   // of its user
	User      string   // the name of the user; "" is not known
	Home      string   // of the user, where Env has no HOME
	// Has reports whether its filesystem has a program at an absolute path.
	Has func(name string) bool
	// More are directories that it finds warm whatever it runs: absolute, or below "~".
	More []string
}

// Path is a directory that a step finds as the steps of the same project have left it that ran before.
type Path struct {
	Tool   string // whose it is: "Go"
	Dir    string // absolute and clean
	Locked bool   // one step at a time has it: others wait
	Built  bool   // what is in it was built with what the base image has: another one has another directory
}

// Paths are the directories of the tools that a step runs, as far as its command tells, by their names. None lies in another one.
func Paths(s Step) []Path {
	vars := variables(s)
	words := commandWords(s.Args)
	indirect := slices.ContainsFunc(words, isIndirect)
	var all []Path
	for _, t := range tools() {
		if !t.named(words) && !(indirect && t.there(s.Has, vars["PATH"])) {
			continue
		}
		for _, d := range t.dirs {
			made := slices.ContainsFunc(d.makes, func(w string) bool { return slices.Contains(words, w) })
			if dir, ok := expand(d.places, vars, s.User); ok && !made && (!d.root || s.UID == 0) {
				all = append(all, Path{t.name, dir, d.locked, d.built})
			}
		}
	}
	for _, m := range s.More {
		if dir, ok := expand([]string{m}, vars, s.User); ok {
			all = append(all, Path{"a path of the configuration", dir, false, true})
		}
	}
	return outermost(all)
}

// outermost leaves out what lies in another one, or is another one, and sorts the rest.
func outermost(all []Path) []Path {
	slices.SortStableFunc(all, func(a, b Path) int { return strings.Compare(a.Dir+"/", b.Dir+"/") })
	var out []Path
	for _, p := range all {
		if n := len(out); n > 0 && below(p.Dir, out[n-1].Dir) {
			out[n-1].Locked, out[n-1].Built = out[n-1].Locked || p.Locked, out[n-1].Built || p.Built
			continue
		}
		out = append(out, p)
	}
	return out
}

// Overlap reports whether one of two clean, absolute paths is the other one, or lies in it.
func Overlap(a, b string) bool { return below(a, b) || below(b, a) }

// below reports whether a path is dir, or lies in it.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// variables are those of a step that directories depend on.
func variables(s Step) map[string]string {
	vars := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, kv := range s.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	if vars["HOME"] == "" {
		vars["HOME"] = s.Home
	}
	return vars
}

// expand gives the first of some places whose variable is set. A variable that is set to something else than a path, as Go's GOCACHE=off,
// means that there is none.
func expand(places []string, vars map[string]string, user string) (string, bool) {
	for _, p := range places {
		if rest, ok := strings.CutPrefix(p, "~"); ok {
			p = "$HOME" + rest
		}
		if name, ok := strings.CutPrefix(p, "$"); ok {
			name, rest, _ := strings.Cut(name, "/")
			value := vars[name]
			if value == "" {
				continue
			}
			value, _, _ = strings.Cut(value, ":") // GOPATH is a list
			p = value + "/" + rest
		}
		p = strings.ReplaceAll(p, "%u", user)
		if !path.IsAbs(p) || strings.Contains(p, "\x00") {
			return "", false
		}
		p = path.Clean(p)
		return p, strings.Count(p, "/") > 1 // nobody's cache is a directory of the root
	}
	return "", false
}

// commandWords are the words of a command that may be names of programs. What is quoted for a shell is taken apart as well.
func commandWords(args []string) []string {
	if len(args) > 2 && strings.HasPrefix(args[1], "-") && strings.HasSuffix(args[0], "sh") { // the shell of the shell form
		args = args[2:]
	}
	var words []string
	for _, a := range args {
		words = append(words, strings.FieldsFunc(a, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-", r)
		})...)
	}
	return words
}

// command is the name of a program without its directory and version: pip of /usr/bin/pip3.12.
func command(word string) string { return strings.TrimRight(path.Base(word), "0123456789.-") }

// isIndirect reports whether a word names what may run any other program: a script, or a tool that is told by a file what to run.
func isIndirect(word string) bool {
	return strings.HasPrefix(word, "./") || strings.HasPrefix(word, "/dev/pipes/") || strings.HasSuffix(word, ".sh") ||
		slices.Contains(runners, command(word))
}
