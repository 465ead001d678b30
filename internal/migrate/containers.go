package migrate

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"mvdan.cc/sh/v3/syntax"
)

// startOf is what the image of a build runs by itself, ENTRYPOINT and CMD; nil where its Dockerfile does not say.
func startOf(b *Build) (entry, cmd *parser.Node) {
	if b == nil {
		return nil, nil
	}
	d, err := parseDockerfile(b)
	if err != nil {
		return nil, nil
	}
	for _, n := range d.inherited(d.last()) {
		switch strings.ToUpper(n.Value) {
		case "ENTRYPOINT":
			entry, cmd = n, nil
		case "CMD":
			cmd = n
		}
	}
	return entry, cmd
}

// inherited are the instructions that make a stage: those of the stages that it stands on, and its own.
func (d *dockerfile) inherited(s *stage) (all []*parser.Node) {
	index := slices.Index(d.stages, s)
	if below := d.find(s.base, index); below != nil && !isNumber(s.base) {
		all = d.inherited(below)
	}
	end := len(d.lines) + 1
	if index+1 < len(d.stages) {
		end = d.stages[index+1].node.StartLine
	}
	for _, n := range d.nodes {
		if n.StartLine > s.node.StartLine && n.StartLine < end {
			all = append(all, n)
		}
	}
	return all
}

// ownCommand is what an image runs by itself, as RUN.
func ownCommand(entry, cmd *parser.Node) []string {
	form := func(n *parser.Node) string {
		if n.Attributes["json"] {
			return jsonWords(wordsOf(n))
		}
		return strings.Join(wordsOf(n), " ")
	}
	switch {
	case entry == nil && cmd == nil:
		return nil
	case entry == nil:
		return []string{"RUN " + form(cmd)}
	case cmd == nil || !entry.Attributes["json"]:
		return []string{"RUN " + form(entry)}
	case !cmd.Attributes["json"]:
		return []string{"RUN " + jsonWords(append(wordsOf(entry), "/bin/sh", "-c", form(cmd)))}
	}
	return []string{"RUN " + jsonWords(append(wordsOf(entry), wordsOf(cmd)...))}
}

// insideOf is a path in a container whose processes have a working directory; "" when that is not known.
func insideOf(b *Build, workdir, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	if workdir == "" && b != nil {
		if d, err := parseDockerfile(b); err == nil {
			for _, n := range d.inherited(d.last()) {
				if words := wordsOf(n); strings.EqualFold(n.Value, "WORKDIR") && len(words) == 1 {
					workdir = path.Join(workdir, d.expand(words[0]))
				}
			}
		}
	}
	if !path.IsAbs(workdir) || unknown(workdir) { // one of an image below, too
		return ""
	}
	return path.Join(workdir, name)
}

// runs follows what is run in a container: programs that only copy take files out of it, others become a RUN of a stage.
func (in *interpreter) runs(line int, c *container, command []string, values map[string][]string, redirs []*syntax.Redirect) {
	mounts := map[string]string{} // directories of the container: those of the script
	for _, v := range values["volume"] {
		if parts := strings.Split(v, ":"); len(parts) > 1 {
			mounts[path.Clean(parts[1])] = in.at(parts[0])
		}
	}
	if len(values["mount"]) > 0 {
		in.problem(line, "--mount is not followed")
		return
	}
	if len(command) == 3 && (command[0] == "sh" || command[0] == "bash") && strings.HasPrefix(command[1], "-") && strings.HasSuffix(command[1], "c") {
		if words := strings.Fields(command[2]); len(words) > 0 && words[0] == "cp" && !strings.ContainsAny(command[2], "&|;><$`*'\"\\{~#\n") {
			command = words
		}
	}
	workdir := last(values["workdir"])
	switch {
	case len(command) == 0:
		in.problem(line, "what the image's own command writes to %s is not followed: name the files with `docker cp`", strings.Join(values["volume"], ", "))
	case command[0] == "cat" && len(command) == 2 && output(redirs) != nil && len(mounts) == 0:
		from := insideOf(c.build, workdir, command[1])
		if from == "" {
			in.problem(line, "where %s is in the container is not known: name it by its whole path", command[1])
			return
		}
		in.extract(&Extract{Line: line, Build: c.build, Image: c.image, Path: from, To: in.at(in.word(output(redirs))), Follow: true})
		return
	case command[0] == "cp" && len(mounts) > 0:
		in.copied(line, c, command[1:], mounts, workdir)
	case slices.Contains([]string{"true", "/bin/true", ":", "sleep", "echo", "ls", "false"}, command[0]):
	case len(mounts) > 0:
		in.problem(line, "what %q writes to a mounted directory is not followed", strings.Join(command, " "))
	case len(values["env"])+len(values["workdir"])+len(values["user"]) > 0:
		in.problem(line, "a command with --env, --workdir or --user is not followed: make it a RUN of the Dockerfile")
	default:
		c.runs = []string{"RUN " + jsonWords(command)}
	}
	in.redirected(line, redirs)
}

// copied follows `cp` in a container to a directory of the script's that is mounted there.
func (in *interpreter) copied(line int, c *container, args []string, mounts map[string]string, workdir string) {
	_, rest, bad := flags(args, "recursive|r|R archive|a verbose|v force|f p")
	if bad != "" || len(rest) < 2 {
		in.problem(line, "cp %s is not followed", strings.Join(args, " "))
		return
	}
	dest := insideOf(c.build, workdir, rest[len(rest)-1])
	inside, outside := "", ""
	for i, o := range mounts { // the innermost
		if (dest == i || strings.HasPrefix(dest, i+"/")) && len(i) > len(inside) {
			inside, outside = i, o
		}
	}
	for _, name := range rest[:len(rest)-1] {
		from := insideOf(c.build, workdir, name)
		hidden := false
		for i := range mounts {
			hidden = hidden || overlap(from, i)
		}
		if inside == "" || from == "" || hidden || strings.ContainsAny(name, "*?[") {
			in.problem(line, "where cp %s puts files is not followed", strings.Join(args, " "))
			return
		}
		e := &Extract{Line: line, Build: c.build, Image: c.image, Path: from, To: path.Join(outside, strings.TrimPrefix(dest, inside)), Follow: !keepsLinks(args)}
		switch {
		case strings.HasSuffix(name, "/."):
			e.Contents = true
		case dest == inside || strings.HasSuffix(rest[len(rest)-1], "/") || len(rest) > 2 || in.isDir(e.To):
			e.To = path.Join(e.To, path.Base(from))
		}
		in.extract(e)
	}
}

// keepsLinks reports whether cp has a symbolic link stay one.
func keepsLinks(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "-") && (strings.ContainsAny(a, "arRd") || strings.HasPrefix(a, "--"))
	})
}
