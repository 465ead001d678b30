package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/spf13/pflag"
)

const repository = "../.."

// featureRow is a line of a table of docs/dockerfile.md.
type featureRow struct {
	line  string
	names []string // the code spans of the first cell
	cells []string
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

func spans(cell string) (all []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}

func readFeatures(t *testing.T) []featureRow {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository, "docs/dockerfile.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []featureRow
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| what |") {
			continue
		}
		row := featureRow{line: line}
		for _, c := range strings.Split(strings.Trim(line, "|"), " | ") {
			row.cells = append(row.cells, strings.TrimSpace(c))
		}
		row.names = spans(row.cells[0])
		rows = append(rows, row)
	}
	return rows
}

// TestFeatureTable: every instruction, option of an instruction and of a mount that the linked parser
// knows, every check of the linked linter, and every flag of build, stands in docs/dockerfile.md; no cell is empty; what a row is tested
// by is there.
func TestFeatureTable(t *testing.T) {
	rows := readFeatures(t)
	for _, want := range slices.Concat(instructionNames(), instructionOptions(t), mountOptions(t), checkNames(t), flagsOfBuild()) {
		if !slices.ContainsFunc(rows, func(r featureRow) bool { return slices.Contains(r.names, want) }) {
			t.Errorf("docs/dockerfile.md has no row for %s", want)
		}
	}
	tests := testNames(t)
	for _, r := range rows {
		if len(r.cells) != 7 {
			t.Errorf("%d cells, want 7: %s", len(r.cells), r.line)
			continue
		}
		if slices.Contains(r.cells, "") {
			t.Errorf("an empty cell: %s", r.line)
		}
		by := spans(r.cells[6])
		if len(by) == 0 {
			t.Errorf("tested by nothing: %s", r.line)
		}
		for _, name := range by {
			if !tests[name] {
				t.Errorf("there is no test %s: %s", name, r.line)
			}
		}
	}
}

func instructionNames() (names []string) {
	for name := range command.Commands {
		names = append(names, strings.ToUpper(name))
	}
	return names
}

func flagsOfBuild() (names []string) {
	newBuildCmd(&app{}).Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	return names
}

// instructionOptions reads the options out of the source of BuildKit's parser: the calls of
// flags.AddX("option", ...) in the functions parseINSTRUCTION, and in the hooks of RUN.
func instructionOptions(t *testing.T) (names []string) {
	t.Helper()
	for file, tree := range sourceOf(t, "instructions") {
		for _, decl := range tree.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			instruction, ok := strings.CutPrefix(fn.Name.Name, "parse")
			if strings.HasPrefix(file, "commands_run") {
				instruction, ok = "run", true
			}
			if !ok {
				continue
			}
			for _, option := range literals(fn, func(n ast.Node) ast.Expr {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return nil
				}
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && regexp.MustCompile("^Add(String|Strings|Bool)$").MatchString(sel.Sel.Name) {
					return call.Args[0]
				}
				return nil
			}) {
				names = append(names, strings.ToUpper(instruction)+" --"+option)
			}
		}
	}
	if len(names) < 20 {
		t.Fatalf("found only the options %v in BuildKit's parser", names)
	}
	return names
}

// mountOptions reads the types and options of RUN --mount out of BuildKit's parser.
func mountOptions(t *testing.T) (names []string) {
	t.Helper()
	tree := sourceOf(t, "instructions")["commands_runmount.go"]
	if tree == nil {
		t.Fatal("BuildKit's parser has no commands_runmount.go")
	}
	for _, decl := range tree.Decls {
		switch d := decl.(type) {
		case *ast.GenDecl: // const MountTypeBind MountType = "bind"
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if !ok || !strings.HasPrefix(v.Names[0].Name, "MountType") {
					continue
				}
				for _, kind := range literals(v, func(n ast.Node) ast.Expr { e, _ := n.(*ast.BasicLit); return expr(e) }) {
					names = append(names, "RUN --mount=type="+kind)
				}
			}
		case *ast.FuncDecl:
			if d.Name.Name != "parseMount" {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				c, ok := n.(*ast.CaseClause)
				if !ok {
					return true
				}
				for _, e := range c.List {
					for _, option := range literals(e, func(n ast.Node) ast.Expr { e, _ := n.(*ast.BasicLit); return expr(e) }) {
						names = append(names, "RUN --mount "+option+"=")
					}
				}
				return true
			})
		}
	}
	if len(names) < 20 {
		t.Fatalf("found only %v in BuildKit's parser", names)
	}
	return names
}

func expr(e *ast.BasicLit) ast.Expr {
	if e == nil {
		return nil
	}
	return e
}

// literals lists the string literals among the expressions that pick chooses below root.
func literals(root ast.Node, pick func(ast.Node) ast.Expr) (all []string) {
	ast.Inspect(root, func(n ast.Node) bool {
		if lit, ok := pick(n).(*ast.BasicLit); ok && lit.Kind == token.STRING {
			all = append(all, strings.Trim(lit.Value, `"`))
		}
		return true
	})
	return all
}

// checkNames reads the names of the checks out of BuildKit's linter: LinterRule[...]{Name: "check", ...}.
func checkNames(t *testing.T) (names []string) {
	t.Helper()
	for _, tree := range sourceOf(t, "linter") {
		names = append(names, literals(tree, func(n ast.Node) ast.Expr {
			if kv, ok := n.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Name" {
					return kv.Value
				}
			}
			return nil
		})...)
	}
	if len(names) < 20 {
		t.Fatalf("found only the checks %v in BuildKit's linter", names)
	}
	return names
}

// sourceOf is a package of BuildKit's Dockerfile frontend as it is linked, by the files' names.
func sourceOf(t *testing.T, name string) map[string]*ast.File {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/moby/buildkit/frontend/dockerfile/"+name).Output()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, p := range paths {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		if files[filepath.Base(p)], err = parser.ParseFile(token.NewFileSet(), p, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// testNames are the scripts, by their files' names, and the Go tests of the repository.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		names[strings.TrimSuffix(filepath.Base(s), ".txtar")] = true
	}
	sources, err := filepath.Glob(filepath.Join(repository, "internal/*/*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	fn := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, s := range sources {
		data, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fn.FindAllStringSubmatch(string(data), -1) {
			names[m[1]] = true
		}
	}
	return names
}
