package migrate

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// What is not followed, as it depends on something that only running the script tells, may still do something: what it sets, writes or changes is not
// known from there on, and what becomes of files of containers by it is told.

// skipped notes what is not known any more after something that may have run. sub: in a shell of its own, whose directory and variables are its own.
func (in *interpreter) skipped(n syntax.Node, sub bool) {
	syntax.Walk(n, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Subshell:
			if !sub {
				for _, st := range n.Stmts {
					in.skipped(st, true)
				}
				return false
			}
		case *syntax.CmdSubst:
			return false
		case *syntax.FuncDecl:
			if in.matters(n.Body) {
				in.problem(int(n.Pos().Line()), "whether there is a function %s depends on something that only running it tells", n.Name.Value)
			}
			return false
		case *syntax.Assign:
			if n.Name != nil && !sub {
				in.forget(n.Name.Value)
			}
		case *syntax.Redirect:
			in.redirected(int(n.OpPos.Line()), []*syntax.Redirect{n})
		case *syntax.CallExpr:
			if len(n.Args) > 0 {
				in.maybe(int(n.Pos().Line()), unwrapped(in.words(n.Args)), sub)
			}
		}
		return true
	})
}

// forget has a variable be one that the script does not set.
func (in *interpreter) forget(name string) { in.vars[name] = "${" + name + "}" }

// maybe follows a program of which it is not known whether it runs.
func (in *interpreter) maybe(line int, args []string, sub bool) {
	if len(args) == 0 || isDocker(args) || in.funcs[args[0]] != nil {
		return
	}
	switch args[0] {
	case "mkdir": // the directory is there in any case
		in.program(line, args, nil)
		return
	case "cd", "pushd", "popd":
		if !sub {
			in.problem(line, "the directory from there on depends on something that only running it tells")
		}
		return
	case "break", "continue":
		if in.loops > 0 {
			in.problem(line, "whether this loop goes on depends on something that only running it tells")
		}
		return
	case "read", "unset", "mapfile", "readarray":
		in.sets(args)
		return
	case "source", ".", "eval":
		in.program(line, args, nil)
		return
	}
	for _, arg := range args[1:] {
		name := in.at(arg)
		if reads(args) {
			continue
		}
		if in.touched(name) != nil {
			in.problem(line, "what %s does with %s, which is of a container, depends on something that only running it tells", args[0], arg)
		}
		if slices.Contains([]string{"cp", "mv", "sed", "tee", "rm", "ln", "install"}, args[0]) {
			in.texts[name] = unreadable
		}
	}
}

// sets forgets the variables that a program of the shell sets.
func (in *interpreter) sets(args []string) {
	for _, name := range args[1:] {
		if !strings.HasPrefix(name, "-") {
			in.forget(name)
		}
	}
}

// redirected notes the files that redirections write.
func (in *interpreter) redirected(line int, redirs []*syntax.Redirect) {
	for _, r := range redirs {
		if to := in.outputOf(r); to != "" {
			in.write(line, to)
		}
	}
}

// outputOf is the file that a redirection writes; "" is none.
func (in *interpreter) outputOf(r *syntax.Redirect) string {
	switch r.Op {
	case syntax.RdrOut, syntax.AppOut, syntax.RdrClob, syntax.RdrAll, syntax.AppAll, syntax.RdrInOut:
		if to := in.at(in.word(r.Word)); !strings.HasPrefix(to, "/dev/") {
			return to
		}
	}
	return ""
}

// write notes that a file is written in a way that is not followed.
func (in *interpreter) write(line int, to string) {
	in.texts[to] = unreadable
	if !unknown(to) {
		in.wrote[to] = line
	}
	if e := in.touched(to); e != nil {
		in.problem(line, "%s is written, which is of a container: make it a RUN of the first Dockerfile", to)
	}
}

// touched is something of a container that is at a path, below it, or that the path is a part of.
func (in *interpreter) touched(name string) *Extract {
	for _, e := range in.files {
		if overlap(name, e.To) {
			return e
		}
	}
	return nil
}

func overlap(a, b string) bool {
	return a == b || a == "." && !path.IsAbs(b) && !strings.HasPrefix(b, "../") || strings.HasPrefix(b, a+"/") || strings.HasPrefix(a, b+"/")
}

// reads reports whether a program only looks at the files that it is told.
func reads(args []string) bool {
	return slices.Contains(strings.Fields("echo printf test [ ls file stat du wc head tail less more diff cmp grep egrep fgrep true false : sleep date which type "+
		"sha256sum sha1sum sha512sum md5sum shasum cksum basename dirname readlink realpath exit return cat trap set export readonly"), path.Base(args[0]))
}

// unwrapped takes off a command line what starts another program as it is.
func unwrapped(args []string) []string {
	for len(args) > 0 && slices.Contains([]string{"sudo", "exec", "command", "time", "nohup", "builtin"}, args[0]) {
		rest := args[1:]
		for len(rest) > 0 && slices.Contains([]string{"-E", "-H", "-n", "-p", "--"}, rest[0]) {
			rest = rest[1:]
		}
		if len(rest) > 0 && strings.HasPrefix(rest[0], "-") { // it does something else, as "command -v" does
			return args
		}
		args = rest
	}
	return args
}

// isTest reports whether a statement asks for something.
func isTest(st *syntax.Stmt) bool {
	if st.Negated {
		return true
	}
	switch cmd := st.Cmd.(type) {
	case *syntax.TestClause, *syntax.ArithmCmd:
		return true
	case *syntax.CallExpr:
		return len(cmd.Args) > 0 && slices.Contains([]string{"[", "test", "grep", "egrep", "false", "cmp", "diff"}, cmd.Args[0].Lit())
	case *syntax.BinaryCmd:
		return isTest(cmd.X) || isTest(cmd.Y)
	}
	return false
}

// plain is a word without running anything for it.
func (in *interpreter) plain(w *syntax.Word) string {
	var b strings.Builder
	for _, p := range w.Parts {
		if _, command := p.(*syntax.CmdSubst); command {
			return ""
		}
		b.WriteString(in.part(p, false))
	}
	return b.String()
}

func (in *interpreter) plainWords(all []*syntax.Word) []string {
	words := make([]string, len(all))
	for i, w := range all {
		words[i] = in.plain(w)
	}
	return words
}

// startsDocker reports whether a program is one that starts others, and is told to start docker.
func (in *interpreter) startsDocker(args []string) bool {
	starters := strings.Fields("sudo doas env nice ionice timeout xargs stdbuf eval sh bash dash ash ssh flock watch parallel")
	return len(args) > 1 && slices.Contains(starters, path.Base(args[0])) && slices.ContainsFunc(args[1:], func(text string) bool {
		return slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n;&|()", r) }), func(word string) bool { return isDocker([]string{word}) })
	})
}

// writes reports whether a statement writes files by redirections or by tee.
func writes(st *syntax.Stmt) (found bool) {
	syntax.Walk(st, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Redirect:
			found = found || n.Op != syntax.DplOut && n.Op != syntax.RdrIn && n.Word.Lit() != "/dev/null"
		case *syntax.CallExpr:
			found = found || len(n.Args) > 0 && n.Args[0].Lit() == "tee"
		}
		return true
	})
	return found
}

// prints reports whether a statement has a container print.
func (in *interpreter) prints(st *syntax.Stmt) (found bool) {
	syntax.Walk(st, func(n syntax.Node) bool {
		if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 1 {
			if words := unwrapped(in.plainWords(call.Args)); isDocker(words) {
				found = found || slices.Contains([]string{"run", "start", "logs", "exec", "attach", "cp", "export", "save"}, verb(words[1:]))
			}
		}
		return true
	})
	return found
}
