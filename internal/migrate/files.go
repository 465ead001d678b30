package migrate

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// unreadable is the text of a file that the script wrote in a way that is not followed.
const unreadable = "\x00"

// output is the file that redirections write standard output to, or nil.
func output(redirs []*syntax.Redirect) *syntax.Word {
	for _, r := range redirs {
		if (r.Op == syntax.RdrOut || r.Op == syntax.RdrClob) && (r.N == nil || r.N.Value == "1") {
			return r.Word
		}
	}
	return nil
}

// program follows a program that is not docker, as far as files and directories are concerned.
func (in *interpreter) program(line int, args []string, redirs []*syntax.Redirect) {
	to := ""
	if w := output(redirs); w != nil {
		if to = in.at(in.word(w)); strings.HasPrefix(to, "/dev/") {
			to = ""
		}
	}
	in.redirected(line, redirs)
	switch args[0] {
	case "cd", "pushd":
		in.cd(line, args)
	case "popd":
		if n := len(in.dirs); n > 0 {
			in.dir, in.dirs = in.dirs[n-1], in.dirs[:n-1]
		}
	case "exit":
		in.ended = true
	case "return":
		in.returned = in.depth > 0
	case "shift":
		in.shift(args)
	case "read", "unset", "mapfile", "readarray":
		in.sets(args)
	case "source", ".", "eval":
		in.brought(line, args)
	case "mkdir":
		for _, dir := range args[1:] {
			for name := in.at(dir); !strings.HasPrefix(dir, "-") && name != "." && name != "/" && !strings.HasPrefix(name, ".."); name = path.Dir(name) {
				in.made[name] = true
			}
		}
	case "rm", "rmdir":
		in.remove(args[1:])
	case "cp", "mv", "install", "ln":
		in.move(line, args)
	case "sed":
		in.sed(line, args[1:], to)
	case "envsubst":
		in.substitute(redirs, to)
	case "cat":
		in.cat(args[1:], redirs, to)
	case "tee":
		for _, arg := range args[1:] {
			in.write(line, in.at(arg))
		}
	default:
		in.other(line, args)
	}
}

// other follows a program that is not known: what is of a container may be another file afterwards.
func (in *interpreter) other(line int, args []string) {
	if reads(args) {
		return
	}
	for _, arg := range args[1:] {
		if strings.HasPrefix(arg, "-") || in.touched(in.at(arg)) == nil || in.at(arg) == "." {
			continue
		}
		if harmless(args) {
			in.note(line, "%s is left out: %s has the permissions that it has in the container", strings.Join(args, " "), arg)
			continue
		}
		in.problem(line, "%s changes %s, which is of a container: make it a RUN of the first Dockerfile", args[0], arg)
	}
}

// brought follows what brings commands into the script, which are not followed.
func (in *interpreter) brought(line int, args []string) {
	text := strings.Join(args[1:], " ")
	if args[0] != "eval" && len(args) > 1 {
		data, err := os.ReadFile(filepath.Join(in.script.Dir, in.at(args[1])))
		if err != nil {
			return // it sets what is not known
		}
		text = string(data)
	}
	tree, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil || in.matters(tree) {
		in.problem(line, "what %s brings is not followed", strings.Join(args, " "))
		return
	}
	in.skipped(tree, false)
}

// shift moves the arguments of a function.
func (in *interpreter) shift(args []string) {
	n := 1
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[1])
	}
	for i := 1; i < 10 && n > 0; i++ {
		value, known := in.vars[strconv.Itoa(i+n)]
		if delete(in.vars, strconv.Itoa(i)); known {
			in.vars[strconv.Itoa(i)] = value
		}
	}
}

// harmless reports whether a program leaves the contents of a file that came from a container as they are, and most often its permissions.
func harmless(args []string) bool {
	return args[0] == "chmod" && len(args) > 1 && slices.Contains([]string{"+x", "a+x", "u+x", "755", "0755"}, args[1])
}

func (in *interpreter) cd(line int, args []string) {
	if len(args) < 2 || unknown(args[1]) {
		in.problem(line, "the directory of cd is not known")
		return
	}
	dir := in.at(args[1])
	if fi, err := os.Stat(filepath.Join(in.script.Dir, dir)); !in.made[dir] && (err != nil || !fi.IsDir()) {
		in.problem(line, "cd %s: there is no such directory", args[1])
		return
	}
	if args[0] == "pushd" {
		in.dirs = append(in.dirs, in.dir)
	}
	in.dir = dir
}

func (in *interpreter) remove(args []string) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		name := in.at(arg)
		in.files = slices.DeleteFunc(in.files, func(e *Extract) bool {
			for at := e.To; at != "." && at != "/"; at = path.Dir(at) {
				if ok, _ := path.Match(name, at); ok || at == name {
					return true
				}
			}
			return false
		})
		in.gone[name] = true
		for dir := range in.made {
			if dir == name || strings.HasPrefix(dir, name+"/") {
				delete(in.made, dir)
			}
		}
		delete(in.wrote, name)
	}
}
