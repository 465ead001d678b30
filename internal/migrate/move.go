package migrate

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const moveFlags = "recursive|r|R archive|a verbose|v force|f no-dereference|P|d dereference|L|H preserve= p update|u interactive|i no-clobber|n x " +
	"link|l symbolic|s no-target-directory|T target-directory|t= mode|m= owner|o= group|g= D compare|C strip"

// move follows cp and mv of what came from containers, and of Dockerfiles.
func (in *interpreter) move(line int, args []string) {
	values, names, bad := flags(args[1:], moveFlags)
	if len(names) < 2 && bad == "" && len(values["target-directory"]) == 0 {
		return
	}
	for _, f := range []string{"link", "symbolic", "no-target-directory", "target-directory", "no-clobber", "update"} {
		if len(values[f]) > 0 && bad == "" {
			bad = "--" + f
		}
	}
	if bad != "" {
		for _, name := range args[1:] {
			if in.touched(in.at(name)) != nil {
				in.problem(line, "the flag %s of %s is not followed, and %s is of a container", bad, args[0], name)
			}
			in.texts[in.at(name)] = unreadable
		}
		return
	}
	dest := names[len(names)-1]
	for _, name := range names[:len(names)-1] {
		from, to := in.at(name), in.at(dest)
		contents := strings.HasSuffix(name, "/.") || name == "."
		if !contents && (strings.HasSuffix(dest, "/") || in.isDir(to) || len(names) > 2) {
			to = path.Join(to, path.Base(from))
		}
		if strings.ContainsAny(name, "*?[") {
			in.globbed(line, args[0], name)
			continue
		}
		if in.touched(from) != nil {
			in.moved(line, args[0], from, to, contents)
			continue
		}
		switch text, written := in.texts[from]; {
		case written:
			in.texts[to] = text
		default:
			if fi, err := os.Stat(filepath.Join(in.script.Dir, from)); err == nil && fi.Mode().IsRegular() && fi.Size() < 1<<20 {
				if data, err := os.ReadFile(filepath.Join(in.script.Dir, from)); err == nil {
					in.texts[to] = string(data)
				}
			}
		}
	}
}

// globbed tells of names that may be those of what came from containers.
func (in *interpreter) globbed(line int, program, pattern string) {
	name := in.at(pattern)
	parts := strings.Count(name, "/") + 1
	for _, e := range in.files {
		of := strings.Split(e.To, "/")
		n := min(parts, len(of))
		if ok, _ := path.Match(strings.Join(strings.Split(name, "/")[:n], "/"), strings.Join(of[:n], "/")); ok {
			in.problem(line, "which files of containers %s %s means is not followed: name them", program, pattern)
			return
		}
	}
}

// moved follows cp and mv of something of which at least a part came from containers.
func (in *interpreter) moved(line int, program, from, to string, contents bool) {
	if program == "install" || program == "ln" {
		in.problem(line, "%s of what is of a container is not followed: use cp", program)
		return
	}
	for _, e := range slices.Clone(in.files) {
		moved := *e
		switch rest, below := strings.CutPrefix(e.To, from+"/"); {
		case e.To == from:
			moved.To, moved.Contents = to, e.Contents || contents
		case below || from == ".":
			if from == "." {
				rest = e.To
			}
			moved.To = path.Join(to, rest)
		default:
			inside, above := strings.CutPrefix(from, e.To+"/")
			if !above {
				continue
			}
			if program == "mv" {
				in.problem(line, "mv takes %s out of what is of a container: use cp", from)
				return
			}
			moved.Path, moved.To, moved.Contents = path.Join(e.Path, inside), to, contents
		}
		if program == "mv" {
			in.files = slices.DeleteFunc(in.files, func(f *Extract) bool { return f == e })
		}
		in.extract(&moved)
		e.copied = true
	}
}
