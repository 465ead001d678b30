package migrate

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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
	switch args[0] {
	case "cd", "pushd":
		in.cd(line, args)
	case "mkdir":
		for _, dir := range args[1:] {
			if !strings.HasPrefix(dir, "-") {
				in.made[in.at(dir)] = true
			}
		}
	case "rm", "rmdir":
		in.remove(args[1:])
	case "cp", "mv", "install", "ln":
		in.move(line, args)
	case "chmod", "chown", "strip", "upx", "gzip", "tar", "unzip", "patch":
		for _, arg := range args[1:] {
			if e := in.fileAt(in.at(arg)); e != nil && !harmless(args) {
				in.problem(line, "%s changes %s, which is of a container: make it a RUN of the first Dockerfile", args[0], arg)
			}
		}
	case "sed":
		in.sed(line, args[1:], to)
		return
	case "envsubst":
		in.substitute(redirs, to)
		return
	case "cat":
		in.cat(args[1:], redirs, to)
		return
	}
	if to != "" {
		in.texts[to] = unreadable
	}
}

// harmless reports whether a program leaves a file that came from a container as COPY has it: it can be run already, as docker cp keeps modes.
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
	in.dir = dir
}

func (in *interpreter) fileAt(name string) *Extract {
	for _, e := range in.files {
		if e.To == name {
			return e
		}
	}
	return nil
}

func (in *interpreter) remove(args []string) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		name := in.at(arg)
		in.files = slices.DeleteFunc(in.files, func(e *Extract) bool {
			ok, _ := path.Match(name, e.To)
			return ok || strings.HasPrefix(e.To, name+"/")
		})
		in.gone[name] = true
		delete(in.made, name)
	}
}

// move follows cp and mv of what came from containers, and of Dockerfiles.
func (in *interpreter) move(line int, args []string) {
	var names []string
	for _, a := range args[1:] {
		if !strings.HasPrefix(a, "-") {
			names = append(names, a)
		}
	}
	if len(names) < 2 {
		return
	}
	for _, name := range names[:len(names)-1] {
		from, to := in.at(name), in.at(names[len(names)-1])
		if strings.HasSuffix(names[len(names)-1], "/") || in.isDir(to) || len(names) > 2 {
			to = path.Join(to, path.Base(from))
		}
		e := in.fileAt(from)
		switch text, written := in.texts[from]; {
		case e != nil && (args[0] == "install" || args[0] == "ln"):
			in.problem(line, "%s of what is of a container is not followed: use cp", args[0])
		case e != nil:
			moved := *e
			moved.To = to
			if args[0] == "mv" {
				in.files = slices.DeleteFunc(in.files, func(f *Extract) bool { return f == e })
			}
			in.extract(&moved)
		case written:
			in.texts[to] = text
		default:
			if data, err := os.ReadFile(filepath.Join(in.script.Dir, from)); err == nil && len(data) < 1<<20 {
				in.texts[to] = string(data)
			}
		}
	}
}

// text is what a file has when the script comes there.
func (in *interpreter) text(name string) (string, error) {
	name = in.at(name)
	if text, ok := in.texts[name]; ok {
		if text == unreadable {
			return "", errors.New("it is written in a way that is not followed")
		}
		return text, nil
	}
	data, err := os.ReadFile(filepath.Join(in.script.Dir, name))
	return string(data), err
}

func (in *interpreter) cat(names []string, redirs []*syntax.Redirect, to string) {
	if to == "" {
		return
	}
	var b strings.Builder
	for _, r := range redirs {
		if r.Hdoc != nil {
			b.WriteString(in.word(r.Hdoc))
		}
	}
	for _, name := range names {
		text, err := in.text(name)
		if err != nil {
			in.texts[to] = unreadable
			return
		}
		b.WriteString(text)
	}
	in.texts[to] = b.String()
}

func (in *interpreter) substitute(redirs []*syntax.Redirect, to string) {
	in.texts[to] = unreadable
	for _, r := range redirs {
		if r.Op != syntax.RdrIn {
			continue
		}
		if text, err := in.text(in.word(r.Word)); err == nil {
			in.texts[to] = os.Expand(text, func(name string) string {
				if v, ok := in.vars[name]; ok {
					return v
				}
				return "${" + name + "}"
			})
		}
	}
}

// sed follows commands s of sed whose expressions are plain.
func (in *interpreter) sed(line int, args []string, to string) {
	values, rest, bad := flags(args, "expression|e= in-place|i regexp-extended|E|r")
	scripts := values["expression"]
	if len(scripts) == 0 && len(rest) > 0 {
		scripts, rest = rest[:1], rest[1:]
	}
	if len(values["in-place"]) > 0 && len(rest) == 1 {
		to = in.at(rest[0])
	}
	if to == "" {
		return
	}
	in.texts[to] = unreadable
	if bad != "" || len(rest) != 1 {
		return
	}
	delete(in.texts, to)
	text, err := in.text(rest[0])
	for _, s := range scripts {
		for _, one := range strings.Split(s, ";") {
			if err == nil && strings.TrimSpace(one) != "" {
				text, err = substituted(text, strings.TrimSpace(one), len(values["regexp-extended"]) > 0)
			}
		}
	}
	if err != nil {
		in.texts[to] = unreadable
		in.note(line, "sed: %v", err)
		return
	}
	in.texts[to] = text
}

// substituted is a text after a command s/RE/TEXT/FLAGS.
func substituted(text, command string, extended bool) (string, error) {
	if len(command) < 4 || command[0] != 's' {
		return "", fmt.Errorf("%q is not followed, only s/…/…/ is", command)
	}
	parts := splitUnescaped(command[2:], command[1])
	if len(parts) != 3 || parts[2] != "" && parts[2] != "g" {
		return "", fmt.Errorf("%q is not followed", command)
	}
	re, err := expression(parts[0], extended)
	if err != nil || strings.ContainsAny(parts[1], "&\n") || regexp.MustCompile(`\\[0-9nt]`).MatchString(parts[1]) {
		return "", fmt.Errorf("%q is not followed", command)
	}
	with := strings.ReplaceAll(parts[1], `\`, "")
	lines := strings.SplitAfter(text, "\n")
	for i, l := range lines {
		done := false
		lines[i] = re.ReplaceAllStringFunc(l, func(m string) string {
			if done && parts[2] != "g" {
				return m
			}
			done = true
			return with
		})
	}
	return strings.Join(lines, ""), nil
}

// splitUnescaped splits at a separator; one after a backslash loses that and stays.
func splitUnescaped(s string, sep byte) (parts []string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == sep:
			b.WriteByte(sep)
			i++
		case s[i] == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		case s[i] == sep:
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(parts, b.String())
}

// expression makes a regular expression of sed one of Go, where both mean the same.
func expression(s string, extended bool) (*regexp.Regexp, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`.*[]^$/\-{}`, s[i+1]) >= 0:
			i++
			b.WriteString(regexp.QuoteMeta(s[i : i+1]))
		case c == '\\':
			return nil, errors.New("not followed")
		case strings.IndexByte(".*[]^$", c) >= 0, extended:
			b.WriteByte(c)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return regexp.Compile("(?m)" + b.String())
}
