package migrate

import (
	"path"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// word expands a word. A variable that the script does not set is "${NAME}", and what a command would print "$(...)".
func (in *interpreter) word(w *syntax.Word) string {
	if w == nil {
		return ""
	}
	var b strings.Builder
	for _, p := range w.Parts {
		b.WriteString(in.part(p, false))
	}
	return b.String()
}

func (in *interpreter) part(p syntax.WordPart, quoted bool) string {
	switch p := p.(type) {
	case *syntax.Lit:
		return unescape(p.Value, quoted)
	case *syntax.SglQuoted:
		return p.Value
	case *syntax.DblQuoted:
		var b strings.Builder
		for _, q := range p.Parts {
			b.WriteString(in.part(q, true))
		}
		return b.String()
	case *syntax.ParamExp:
		return in.param(p)
	case *syntax.CmdSubst:
		return in.output(p)
	}
	return "$(...)"
}

// unescape takes away the backslashes of a literal.
func unescape(s string, quoted bool) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (!quoted || strings.IndexByte("$`\"\\\n", s[i+1]) >= 0) {
			i++
			if s[i] == '\n' {
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (in *interpreter) param(p *syntax.ParamExp) string {
	if p.Param == nil || p.Length || p.Excl || p.Slice != nil || p.Repl != nil || p.Index != nil {
		return "$(...)"
	}
	name := p.Param.Value
	value, known := in.vars[name]
	if name == "PWD" && !known {
		value, known = in.dir, true
	}
	switch e := p.Exp; {
	case e == nil:
	case (e.Op == syntax.DefaultUnset || e.Op == syntax.DefaultUnsetOrNull) && !known:
		return in.word(e.Word)
	case (e.Op == syntax.AssignUnset || e.Op == syntax.AssignUnsetOrNull) && !known:
		in.vars[name] = in.word(e.Word)
		return in.vars[name]
	case e.Op == syntax.DefaultUnset || e.Op == syntax.DefaultUnsetOrNull || e.Op == syntax.AssignUnset || e.Op == syntax.AssignUnsetOrNull ||
		e.Op == syntax.ErrorUnset || e.Op == syntax.ErrorUnsetOrNull:
	default:
		return "$(...)"
	}
	if !known {
		return "${" + name + "}"
	}
	return value
}

// output is what a command prints whose output is a word, if it is known.
func (in *interpreter) output(c *syntax.CmdSubst) string {
	if len(c.Stmts) != 1 {
		return "$(...)"
	}
	call, ok := c.Stmts[0].Cmd.(*syntax.CallExpr)
	if !ok || len(call.Args) == 0 {
		if b, ok := c.Stmts[0].Cmd.(*syntax.BinaryCmd); ok && b.Op == syntax.AndStmt {
			return in.inside(b) // $(cd "$(dirname "$0")" && pwd)
		}
		return "$(...)"
	}
	args := in.words(call.Args)
	switch {
	case args[0] == "pwd":
		return in.dir
	case args[0] == "dirname" && len(args) == 2 && (strings.HasPrefix(args[1], "${0") || strings.HasPrefix(args[1], "${BASH_SOURCE")):
		return "."
	case args[0] == "dirname" && len(args) == 2:
		return path.Dir(args[1])
	case args[0] == "basename" && len(args) == 2:
		return path.Base(args[1])
	case args[0] == "echo" && len(args) == 2:
		return args[1]
	case isDocker(args):
		in.printed = ""
		in.docker(int(call.Pos().Line()), args, nil)
		if in.printed != "" {
			return in.printed
		}
	}
	return "$(...)"
}

// inside is the directory that a list of cd and pwd prints.
func (in *interpreter) inside(b *syntax.BinaryCmd) string {
	cd, ok1 := b.X.Cmd.(*syntax.CallExpr)
	pwd, ok2 := b.Y.Cmd.(*syntax.CallExpr)
	if !ok1 || !ok2 || len(cd.Args) < 2 || len(pwd.Args) < 1 {
		return "$(...)"
	}
	words := in.words(cd.Args)
	if words[0] != "cd" || in.words(pwd.Args)[0] != "pwd" {
		return "$(...)"
	}
	return in.at(words[len(words)-1])
}

func (in *interpreter) words(all []*syntax.Word) []string {
	out := make([]string, len(all))
	for i, w := range all {
		out[i] = in.word(w)
	}
	return out
}

// unknown reports whether a text depends on what the script does not set.
func unknown(s string) bool { return strings.Contains(s, "${") || strings.Contains(s, "$(") }
