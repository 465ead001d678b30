package migrate

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"mvdan.cc/sh/v3/syntax"
)

func isDocker(args []string) bool {
	return len(args) > 0 && slices.Contains([]string{"docker", "podman", "nerdctl", "slipway"}, path.Base(args[0]))
}

// verb is what a command line of docker does, without the group: "build" of "image build".
func verb(args []string) string {
	args = afterGroup(args)
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func afterGroup(args []string) []string {
	for len(args) > 1 && slices.Contains([]string{"image", "container", "buildx", "builder"}, args[0]) {
		args = args[1:]
	}
	return args
}

// docker follows a command of docker.
func (in *interpreter) docker(line int, args []string, redirs []*syntax.Redirect) {
	args = afterGroup(args[1:])
	if len(args) == 0 {
		return
	}
	switch args[0] {
	case "build":
		in.build(line, args[1:])
	case "create":
		in.create(line, args[1:], false, nil)
	case "run":
		in.create(line, args[1:], true, redirs)
	case "cp":
		in.cp(line, args[1:])
	case "tag":
		in.tag(line, args[1:])
	case "start":
		for _, name := range args[1:] {
			if c := in.containers[name]; c != nil && c.start != nil {
				c.start()
				c.start = nil
			}
		}
	case "push":
		in.note(line, "pushing is left to you: %s", strings.Join(args, " "))
	case "rm", "rmi", "stop", "kill", "wait", "images", "ls", "ps", "logs", "inspect", "prune", "pull", "login", "logout", "version", "info", "history", "system", "volume", "network":
	case "exec":
		in.problem(line, "what `exec` does in a container is not followed: make it a RUN of the Dockerfile")
	default:
		in.problem(line, "docker %s is not followed", args[0])
	}
}

// plainName is the name of an image as it is looked for.
func plainName(name string) string { return strings.TrimSuffix(name, ":latest") }

// tag gives an image another name.
func (in *interpreter) tag(line int, args []string) {
	if len(args) != 2 {
		in.problem(line, "docker tag %s is not followed", strings.Join(args, " "))
		return
	}
	b, name := in.image(line, args[0])
	in.rename(args[1], b)
	if b == nil {
		in.foreign[plainName(args[1])] = name
		return
	}
	b.Names = append(b.Names, args[1])
}

// rename has a name be that of an image that the script builds; nil: of another one.
func (in *interpreter) rename(name string, b *Build) {
	delete(in.foreign, plainName(name))
	if in.images[plainName(name)] = b; b == nil {
		delete(in.images, plainName(name))
	}
}

// flags takes the flags off a command line. Those with a value have true in spec; unknown ones are returned as the error.
func flags(args []string, spec string) (values map[string][]string, rest []string, bad string) {
	takes := map[string]bool{}
	short := map[string]string{}
	for _, f := range strings.Fields(spec) {
		f, value := strings.CutSuffix(f, "=")
		names := strings.Split(f, "|")
		takes[names[0]] = value
		for _, n := range names[1:] {
			short[n] = names[0]
		}
	}
	values = map[string][]string{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return values, append(rest, args[i+1:]...), ""
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			if strings.HasPrefix(spec, "STOP ") {
				return values, append(rest, args[i:]...), ""
			}
			rest = append(rest, arg)
			continue
		}
		name, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "--") && len(name) > 1 { // -tNAME, or -it
			if full := short[name[:1]]; full != "" && takes[full] {
				name, value, has = name[:1], strings.TrimPrefix(arg, "-"+name[:1]), true
			} else {
				for _, c := range name[:len(name)-1] {
					if short[string(c)] == "" {
						return values, rest, arg
					}
					values[short[string(c)]] = []string{"true"}
				}
				name = name[len(name)-1:]
			}
		}
		if full := short[name]; full != "" {
			name = full
		}
		value1, known := takes[name]
		if !known {
			return values, rest, arg
		}
		if value1 && !has {
			if i++; i == len(args) {
				return values, rest, arg
			}
			value = args[i]
		}
		values[name] = append(values[name], value)
	}
	return values, rest, ""
}

const buildFlags = "tag|t= file|f= build-arg= target= platform= no-cache pull rm force-rm quiet|q progress= load push network= label= iidfile= memory|m= compress"

func (in *interpreter) build(line int, args []string) {
	values, rest, bad := flags(args, buildFlags)
	switch {
	case bad != "":
		in.problem(line, "the flag %s of build is not followed", bad)
		return
	case len(rest) != 1 || rest[0] == "-":
		in.problem(line, "want a build with one directory as its context")
		return
	case len(values["label"]) > 0 || len(values["network"]) > 0:
		in.note(line, "--label and --network are left out: give them to the new build")
	}
	b := &Build{Line: line, Names: values["tag"], Context: in.at(rest[0]), Target: last(values["target"]), Platform: last(values["platform"])}
	b.File = path.Join(b.Context, "Dockerfile")
	if f := last(values["file"]); f != "" {
		b.File = in.at(f)
	}
	for _, what := range []string{b.Context, b.File, b.Target, b.Platform} {
		if unknown(what) {
			in.problem(line, "%s is not known before the script runs", what)
			return
		}
	}
	for _, arg := range values["build-arg"] {
		name, value, has := strings.Cut(arg, "=")
		if !has {
			if value, has = in.vars[name]; !has {
				value = "${" + name + "}"
			}
		}
		b.Args = append(b.Args, Arg{name, value})
	}
	text, known := in.texts[b.File]
	if !known {
		data, err := os.ReadFile(filepath.Join(in.script.Dir, b.File))
		if err != nil {
			in.problem(line, "reading the Dockerfile: %v", err)
			return
		}
		text = string(data)
	}
	if b.Text = text; text == unreadable {
		in.problem(line, "what the script writes to %s is not followed", b.File)
		return
	}
	b.Files = slices.Clone(in.files)
	for _, name := range slices.Sorted(maps.Keys(in.wrote)) {
		b.Written = append(b.Written, Written{name, in.wrote[name]})
	}
	in.script.Builds = append(in.script.Builds, b)
	b.Built, b.Foreign = maps.Clone(in.images), maps.Clone(in.foreign)
	for _, name := range b.Names {
		in.rename(name, b)
	}
	if _, push := values["push"]; push {
		in.note(line, "pushing is left to you: %s", strings.Join(b.Names, " "))
	}
	if in.printed = fmt.Sprintf("<image %d>", len(in.script.Builds)); last(values["iidfile"]) != "" {
		in.texts[in.at(last(values["iidfile"]))] = in.printed
	}
	in.images[in.printed] = b
}

func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// image finds an image that the script has built. A comment that stands at the end of a name without a blank was meant as one.
func (in *interpreter) image(line int, name string) (*Build, string) {
	if b := in.images[plainName(name)]; b != nil {
		return b, name
	}
	if before, _, ok := strings.Cut(name, "#"); ok && in.images[plainName(before)] != nil {
		in.note(line, "%q is taken for %q and a comment: a blank is missing before #", name, before)
		return in.images[plainName(before)], before
	}
	if of := in.foreign[plainName(name)]; of != "" {
		return nil, of
	}
	return nil, name
}

const runFlags = "STOP name= rm detach|d interactive|i tty|t volume|v= env|e= workdir|w= user|u= entrypoint= platform= network= mount= pull= init quiet|q"

// create follows `create` and `run`.
func (in *interpreter) create(line int, args []string, run bool, redirs []*syntax.Redirect) {
	values, rest, bad := flags(args, runFlags)
	if bad != "" || len(rest) == 0 {
		in.problem(line, "the flag %s of a container is not followed", bad)
		return
	}
	b, name := in.image(line, rest[0])
	if b == nil && unknown(name) {
		in.problem(line, "%s is not known before the script runs", name)
		return
	}
	if b == nil && strings.ContainsFunc(name, unfit) {
		in.problem(line, "%q is no name of an image", name)
		return
	}
	c := &container{line: line, build: b, image: name}
	command := rest[1:]
	entry, cmd := startOf(b)
	switch given, over := last(values["entrypoint"]), len(values["entrypoint"]) > 0; {
	case over && given != "":
		command = append([]string{given}, command...)
	case over || entry == nil || len(command) == 0:
	case entry.Attributes["json"]:
		command = append(wordsOf(entry), command...)
	default: // it takes no arguments
		command = nil
	}
	follow := func(redirs []*syntax.Redirect) {
		if len(command) == 0 && len(values["volume"]) == 0 {
			if c.runs = ownCommand(entry, cmd); c.runs == nil {
				c.unsure = "what its image runs by itself is not known, and nothing of it is in the new Dockerfile"
			}
			in.redirected(line, redirs)
			return
		}
		in.runs(line, c, command, values, redirs)
	}
	if run {
		follow(redirs)
	} else {
		c.start = func() { follow(nil) }
	}
	in.printed = fmt.Sprintf("<container %d>", len(in.containers)+1)
	in.containers[in.printed] = c
	if n := last(values["name"]); n != "" {
		in.containers[n] = c
	}
}

// unfit is what has a meaning of its own in a Dockerfile: what ends words and lines, and what no name of an image has.
func unfit(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\"'`\\$<>|;&*?[]", r)
}

func (in *interpreter) extract(e *Extract) {
	if strings.ContainsFunc(e.Path, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("*?[\\", r) }) ||
		!unknown(e.Path) && strings.Contains(e.Path, "$") {
		in.problem(e.Line, "the name %q has characters that mean something else in a COPY", e.Path)
		return
	}
	if unknown(e.Path) || unknown(e.To) {
		in.problem(e.Line, "%s is not known before the script runs", strings.Join([]string{e.Path, e.To}, " "))
		return
	}
	in.files = slices.DeleteFunc(in.files, func(f *Extract) bool { return f.To == e.To })
	in.files = append(in.files, e)
}

// cp follows `docker cp`.
func (in *interpreter) cp(line int, args []string) {
	values, rest, bad := flags(args, "archive|a follow-link|L quiet|q")
	if bad != "" || len(rest) != 2 {
		in.problem(line, "docker cp %s is not followed", strings.Join(args, " "))
		return
	}
	name, from, ok := strings.Cut(rest[0], ":")
	switch {
	case !ok || strings.Contains(rest[1], ":"):
		in.problem(line, "what is copied into a container is not followed: make it a COPY of the Dockerfile")
		return
	case rest[1] == "-":
		in.problem(line, "an archive of files of a container is not followed: name where they go, in place of -")
		return
	}
	c := in.containers[name]
	if c == nil {
		in.problem(line, "no command before makes the container %s", name)
		return
	}
	if c.unsure != "" {
		in.note(line, "the container is of line %d: %s", c.line, c.unsure)
	}
	if slices.ContainsFunc(c.runs, unknown) {
		in.problem(c.line, "what runs in the container is not known before the script runs")
	}
	e := &Extract{Line: line, Build: c.build, Image: c.image, Runs: c.runs, Path: path.Clean("/" + from), To: in.at(rest[1]), Follow: len(values["follow-link"]) > 0}
	switch {
	case strings.HasSuffix(from, "/."):
		e.Contents = true
	case strings.HasSuffix(rest[1], "/") || in.isDir(e.To):
		e.To = path.Join(e.To, path.Base(e.Path))
	}
	in.extract(e)
}

// isDir reports whether something is a directory when the script comes there.
func (in *interpreter) isDir(name string) bool {
	if name == "." || in.made[name] {
		return true
	}
	if slices.ContainsFunc(in.files, func(f *Extract) bool { return f.Contents && f.To == name }) {
		return true
	}
	fi, err := os.Stat(filepath.Join(in.script.Dir, name))
	return err == nil && fi.IsDir() && !in.gone[name]
}

// jsonWords is a command in the JSON form of RUN.
func jsonWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
