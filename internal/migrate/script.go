package migrate

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// interpreter follows a script.
type interpreter struct {
	script     *Script
	vars       map[string]string
	funcs      map[string]*syntax.Stmt
	dir        string            // where the script is, relative to its own directory: "."
	images     map[string]*Build // by plainName, as foreign
	foreign    map[string]string // images that the script does not build, by names that it gives them
	containers map[string]*container
	files      []*Extract        // that are there now
	made       map[string]bool   // directories that the script made
	gone       map[string]bool   // what the script removed
	texts      map[string]string // files that the script wrote
	wrote      map[string]int    // files that it wrote, and in which line
	dirs       []string          // of pushd
	loops      int               // that are being followed
	missing    int               // how often something was not known that a word has
	ended      bool              // by exit
	returned   bool              // from the function that is followed
	problems   Problems
	printed    string // by the last command of docker: the ID of a container or an image
	depth      int
	steps      int             // statements that were followed
	asking     map[string]bool // functions that are being looked into for docker
}

type container struct {
	line   int
	build  *Build
	image  string
	runs   []string
	unsure string // what is not known of what ran in it
	start  func() // follows what it runs, when it is not started so far
}

// maxDepth bounds calls of functions in functions, and maxSteps statements, each as often as it is followed.
const (
	maxDepth = 32
	maxSteps = 20_000
)

// Read follows a script that is in a directory. What cannot be followed is an error of the type [Problems].
func Read(file string) (*Script, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	tree, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(data), filepath.Base(file))
	if err != nil {
		return nil, fmt.Errorf("reading the script: %w", err)
	}
	in := &interpreter{script: &Script{Name: filepath.Base(file), Dir: filepath.Dir(file)}, vars: map[string]string{}, funcs: map[string]*syntax.Stmt{}, dir: ".",
		images: map[string]*Build{}, foreign: map[string]string{}, containers: map[string]*container{}, made: map[string]bool{}, asking: map[string]bool{}, gone: map[string]bool{}, texts: map[string]string{}, wrote: map[string]int{}}
	in.stmts(tree.Stmts)
	if len(in.problems) == 0 && len(in.script.Builds) == 0 {
		in.problem(1, "the script builds no image")
	}
	if len(in.problems) > 0 {
		return nil, in.problems
	}
	return in.script, nil
}

func (in *interpreter) problem(line int, format string, args ...any) {
	p := Problem{in.script.Name, line, fmt.Sprintf(format, args...)}
	if !slices.Contains(in.problems, p) {
		in.problems = append(in.problems, p)
	}
}

func (in *interpreter) note(line int, format string, args ...any) {
	in.script.Notes = append(in.script.Notes, Problem{in.script.Name, line, fmt.Sprintf(format, args...)})
}

// at is a path as it is from the script's directory.
func (in *interpreter) at(name string) string {
	if path.IsAbs(name) {
		if abs, err := filepath.Abs(in.script.Dir); err == nil && (name == abs || strings.HasPrefix(name, abs+"/")) {
			return path.Clean("." + strings.TrimPrefix(name, abs))
		}
		return path.Clean(name)
	}
	return path.Clean(path.Join(in.dir, name))
}

func (in *interpreter) stmts(all []*syntax.Stmt) {
	for _, st := range all {
		if in.ended || in.returned {
			return
		}
		in.stmt(st)
	}
}

func (in *interpreter) stmt(st *syntax.Stmt) {
	line := int(st.Pos().Line())
	if in.steps++; in.steps > maxSteps {
		if in.steps == maxSteps+1 {
			in.problem(line, "the script does more than can be followed")
		}
		return
	}
	if st.Background && in.matters(st) {
		in.problem(line, "it goes on in the background")
		return
	}
	if _, simple := st.Cmd.(*syntax.CallExpr); !simple {
		in.redirected(line, st.Redirs)
	}
	switch cmd := st.Cmd.(type) {
	case nil:
	case *syntax.CallExpr:
		in.call(cmd, st.Redirs)
	case *syntax.DeclClause:
		in.assign(cmd.Args)
	case *syntax.Block:
		in.stmts(cmd.Stmts)
	case *syntax.Subshell:
		dir, vars := in.dir, maps.Clone(in.vars)
		in.stmts(cmd.Stmts)
		in.dir, in.vars, in.ended = dir, vars, false
	case *syntax.FuncDecl:
		in.funcs[cmd.Name.Value] = cmd.Body
	case *syntax.ForClause:
		in.loop(cmd, line)
	case *syntax.BinaryCmd:
		in.binary(cmd, line)
	case *syntax.IfClause:
		if in.matters(cmd) {
			in.problem(line, "what follows this `if` depends on something that only running it tells")
		}
		in.skipped(cmd, false)
	default:
		if in.matters(cmd) {
			in.problem(line, "a command of docker in a `while`, a `case` or the like is not followed")
		}
		in.skipped(cmd, false)
	}
}

func (in *interpreter) binary(cmd *syntax.BinaryCmd, line int) {
	switch cmd.Op {
	case syntax.AndStmt:
		in.stmt(cmd.X)
		if isTest(cmd.X) {
			if in.matters(cmd.Y) {
				in.problem(line, "what follows && depends on something that only running it tells")
			}
			in.skipped(cmd.Y, false)
			return
		}
		in.stmt(cmd.Y)
	case syntax.OrStmt:
		in.stmt(cmd.X)
		if in.matters(cmd.Y) && !in.cleans(cmd.Y) {
			in.problem(line, "what follows || runs only if something fails")
		}
		in.skipped(cmd.Y, false)
	default: // a pipe
		if in.matters(cmd.Y) {
			in.problem(line, "what is piped into docker is not followed")
			return
		}
		if call, ok := cmd.Y.Cmd.(*syntax.CallExpr); ok && in.matters(cmd.X) && len(call.Args) > 0 {
			if prog := in.word(call.Args[0]); !slices.Contains([]string{"tee", "cat", "grep", "tail", "head", "sed", "awk"}, prog) {
				in.problem(line, "what docker pipes into %s is not followed", prog)
				return
			}
		}
		if in.matters(cmd.X) && writes(cmd.Y) && in.prints(cmd.X) {
			in.problem(line, "what a container prints into a pipe is not followed: name files with `docker cp`")
			return
		}
		in.stmt(cmd.X)
		in.skipped(cmd.Y, true)
	}
}

// loop goes through a loop over words that are known.
func (in *interpreter) loop(cmd *syntax.ForClause, line int) {
	words, ok := cmd.Loop.(*syntax.WordIter)
	if !ok || !words.InPos.IsValid() { // of arguments
		if in.matters(cmd) {
			in.problem(line, "how often this loop runs is not followed")
		}
		in.skipped(cmd, false)
		return
	}
	for _, item := range in.words(words.Items) {
		if unknown(item) || strings.ContainsAny(item, "*?[") {
			if in.matters(cmd) {
				in.problem(line, "what this loop goes through is not known: %s", item)
			}
			in.vars[words.Name.Value] = "${" + words.Name.Value + "}"
			in.skipped(cmd, false)
			return
		}
		in.vars[words.Name.Value] = item
		in.loops++
		in.stmts(cmd.Do)
		in.loops--
	}
}

func (in *interpreter) assign(all []*syntax.Assign) {
	for _, a := range all {
		if a.Naked || a.Name == nil {
			continue
		}
		value := in.word(a.Value)
		if a.Array != nil || a.Index != nil {
			value = "$(...)"
		}
		if a.Append {
			value = in.vars[a.Name.Value] + value
		}
		in.vars[a.Name.Value] = value
	}
}

// call follows a simple command.
func (in *interpreter) call(cmd *syntax.CallExpr, redirs []*syntax.Redirect) {
	line := int(cmd.Pos().Line())
	if len(cmd.Args) == 0 {
		in.assign(cmd.Assigns)
		return
	}
	args := in.words(cmd.Args)
	if args = unwrapped(args); len(args) == 0 {
		return
	}
	if len(cmd.Assigns) > 0 { // for this command alone
		vars := maps.Clone(in.vars)
		in.assign(cmd.Assigns)
		defer func() { in.vars = vars }()
	}
	if body := in.funcs[args[0]]; body != nil {
		in.callFunction(body, args, line)
		return
	}
	if isDocker(args) {
		in.docker(line, args, redirs)
		return
	}
	if in.startsDocker(args) {
		in.problem(line, "what %s does with docker is not followed: write it without", args[0])
		return
	}
	in.program(line, args, redirs)
}

func (in *interpreter) callFunction(body *syntax.Stmt, args []string, line int) {
	if in.depth++; in.depth > maxDepth {
		in.problem(line, "functions call each other too deep")
		in.depth--
		return
	}
	old := map[string]string{}
	for i := range 10 {
		name := fmt.Sprint(i)
		old[name] = in.vars[name]
		if delete(in.vars, name); i > 0 && i < len(args) {
			in.vars[name] = args[i]
		}
	}
	in.stmt(body)
	in.returned = false
	for name, value := range old {
		if delete(in.vars, name); value != "" {
			in.vars[name] = value
		}
	}
	in.depth--
}

// matters reports whether docker is called somewhere below a node.
func (in *interpreter) matters(n syntax.Node) (found bool) {
	syntax.Walk(n, func(n syntax.Node) bool {
		if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 0 {
			args := unwrapped(in.plainWords(call.Args))
			found = found || isDocker(args) || in.startsDocker(args) || len(args) > 0 && in.funcs[args[0]] != nil && in.called(args[0])
		}
		return !found
	})
	return found
}

// called is matters for the body of a function.
func (in *interpreter) called(name string) bool {
	if in.asking[name] {
		return false
	}
	if len(in.asking) == 0 {
		defer func() { clear(in.asking) }() // functions without docker stay in it until then
	}
	in.asking[name] = true
	return in.matters(in.funcs[name])
}

// cleans reports whether a statement only ends the script, or removes containers and images.
func (in *interpreter) cleans(st *syntax.Stmt) (clean bool) {
	clean = true
	syntax.Walk(st, func(n syntax.Node) bool {
		if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 0 {
			args := in.words(call.Args)
			clean = clean && (!isDocker(args) || slices.Contains([]string{"rm", "rmi", "stop", "kill"}, verb(args[1:])))
		}
		return clean
	})
	return clean
}
