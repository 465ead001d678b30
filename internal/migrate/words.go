package migrate

import (
	"path"
	"path/filepath"
	"slices"
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
		text := in.output(p)
		if unknown(text) {
			in.missing++
		}
		return text
	}
	in.missing++
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
		value, known = in.abs(in.dir), true
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
		in.missing++
		return "${" + name + "}"
	}
	if unknown(value) {
		in.missing++
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
		return in.abs(in.dir)
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
	return in.abs(in.at(words[len(words)-1]))
}

// abs is an absolute path of something that is relative to the script, which stays the same wherever the script goes.
func (in *interpreter) abs(name string) string {
	if dir, err := filepath.Abs(in.script.Dir); err == nil && !path.IsAbs(name) {
		return path.Join(dir, name)
	}
	return name
}

// words expands words. What variables have that are not quoted becomes several words, or none, and so do braces.
func (in *interpreter) words(all []*syntax.Word) (out []string) {
	for _, w := range all {
		for _, one := range braces(w) {
			out = append(out, in.fields(one)...)
		}
	}
	if len(out) == 0 { // a command that is nothing
		out = []string{""}
	}
	return out
}

// fields are the words that one becomes.
func (in *interpreter) fields(w *syntax.Word) (out []string) {
	var b strings.Builder
	any := false // there is something, be it empty
	for _, p := range w.Parts {
		text := in.part(p, false)
		switch p.(type) {
		case *syntax.ParamExp, *syntax.CmdSubst:
			parts := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
			if strings.HasPrefix(text, "<") || unknown(text) { // the ID of a container, or what is one thing yet
				parts = []string{text}
			}
			for i, part := range parts {
				if i > 0 {
					out = append(out, b.String())
					b.Reset()
				}
				b.WriteString(part)
				any = true
			}
		default:
			b.WriteString(text)
			any = true
		}
	}
	if any {
		out = append(out, b.String())
	}
	return out
}

// maxBraces bounds what the braces of a word become.
const maxBraces = 1000

// braces are the words that the braces of one stand for.
func braces(w *syntax.Word) []*syntax.Word {
	w = &syntax.Word{Parts: slices.Clone(w.Parts)}
	if !syntax.SplitBraces(w) {
		return []*syntax.Word{w}
	}
	all := []*syntax.Word{{}}
	for _, p := range w.Parts {
		choices := []*syntax.Word{{Parts: []syntax.WordPart{p}}}
		if b, ok := p.(*syntax.BraceExp); ok && !b.Sequence {
			choices = nil
			for _, elem := range b.Elems {
				choices = append(choices, braces(elem)...)
			}
		}
		var next []*syntax.Word
		for _, before := range all {
			for _, c := range choices {
				if len(next) < maxBraces {
					next = append(next, &syntax.Word{Parts: append(slices.Clone(before.Parts), c.Parts...)})
				}
			}
		}
		all = next
	}
	return all
}

// unknown reports whether a text depends on what the script does not set.
func unknown(s string) bool { return strings.Contains(s, "${") || strings.Contains(s, "$(") }
