package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/hack/conformance/bake"
)

//go:embed hooks/bake.go.txt
var bakeHook []byte

//go:embed hooks/tests.go.txt
var testsHook []byte

// call is one that a test of buildx makes: of a function of its package bake, or of the program.
type call struct {
	Function     string
	Source       string // the test's file
	Line         int
	Environ      []string
	Dir          string            // the working directory, where it is the test's own
	Tree         map[string][]byte // what is in it
	Data         []byte
	Fn           string // the name of the file with Data
	Files, Fs    []bakeFile
	Targets      []string
	Overrides    []string
	Vars         map[string]string
	EnvOverrides map[string]string
	Envs         map[string]string
	Relative     bool
	Args         []string // of the program
}

// bakeFile is bake.File of buildx.
type bakeFile struct {
	Name string
	Data []byte
}

// hooked are the functions of package bake that tests give definitions to.
var hooked = []string{"ReadTargets", "ParseFiles", "ParseFile", "ParseComposeFiles", "ParseCompose", "ListTargets", "ReadLocalFiles"}

// suite is a copy of buildx in which calls are noted.
type suite struct {
	dir, scratch string
	environ      []string
}

// prepare copies buildx and puts the hooks into it.
func (s *suite) prepare(module string) error {
	if out, err := exec.Command("cp", "-r", "--no-preserve=mode", module+"/.", s.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copying buildx: %w: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "bake", "*.go"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			if err := hook(f); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "bake", "capture.go"), bakeHook, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "tests", "capture_test.go"), testsHook, 0o644)
}

// hook lets the functions that are hooked note their arguments.
func hook(file string) error {
	src, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(f.Decls) { // so that offsets before stay
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !slices.Contains(hooked, fn.Name.Name) {
			continue
		}
		note := fmt.Sprintf("\ncapture(%q", fn.Name.Name)
		for _, field := range fn.Type.Params.List {
			for _, n := range field.Names {
				note += fmt.Sprintf(", %q, %s", n.Name, n.Name)
			}
		}
		at := fset.Position(fn.Body.Lbrace).Offset + 1
		src = slices.Concat(src[:at], []byte(note+")\n"), src[at:])
	}
	return os.WriteFile(file, src, 0o644)
}

// run lets the tests of a package run, of which some may fail, and returns the calls.
func (s *suite) run(pkg, run string, env ...string) ([]call, error) {
	program := filepath.Join(s.scratch, pkg+".test")
	build := exec.Command("go", "test", "-c", "-buildvcs=false", "-mod=mod", "-o", program, "./"+pkg)
	build.Dir, build.Env = s.dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling the tests of %s: %w: %s", pkg, err, out)
	}
	notes := filepath.Join(s.scratch, pkg+".calls")
	test := exec.Command(program, "-test.run="+run, "-test.timeout=9m")
	test.Dir, test.Env = filepath.Join(s.dir, pkg), slices.Concat(s.environ, env, []string{"CAPTURE=" + notes})
	out, err := test.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "--- FAIL") {
			fmt.Print(pkg, ": ", line)
		}
	}
	if err := os.WriteFile(filepath.Join(s.scratch, pkg+".log"), out, 0o644); err != nil {
		return nil, err
	}
	return readCalls(notes)
}

func readCalls(file string) (all []call, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for d := json.NewDecoder(bufio.NewReader(f)); d.More(); {
		var c call
		if err := d.Decode(&c); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// standIn is what the tests run as buildx: it notes the command line and the directory, and becomes buildx.
func standIn() error {
	c := call{Function: "buildx", Source: "tests/bake.go", Args: os.Args[1:], Environ: os.Environ(), Tree: map[string][]byte{}}
	var err error
	if c.Dir, err = os.Getwd(); err != nil {
		return err
	}
	if strings.Contains(c.Dir, "TestCapture") { // else it is where others write
		if err := c.readTree(); err != nil {
			return err
		}
	}
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(os.Getenv("CAPTURE"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return become(os.Getenv("CAPTURE_BUILDX"), os.Args, os.Environ())
}

// readTree notes the files that a definition can be, or be read with.
func (c *call) readTree() error {
	return filepath.WalkDir(c.Dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == c.Dir {
			return err
		}
		rel := strings.TrimPrefix(p, c.Dir+"/")
		switch info, err := d.Info(); {
		case err != nil:
			return err
		case d.IsDir() && rel == ".git":
			return filepath.SkipDir
		case d.IsDir():
			c.Tree[rel+"/"] = nil
		case d.Type().IsRegular() && info.Size() < 1<<16:
			c.Tree[rel], err = os.ReadFile(p)
			return err
		}
		return nil
	})
}

// definitions are those of buildx' documentation and of some projects.
func definitions(s *bake.Sources, modules map[string]string) ([]*bake.Case, error) {
	var all []*bake.Case
	names := map[string]string{"hcl": "docker-bake.hcl", "json": "docker-bake.json", "yaml": "compose.yaml"}
	for _, path := range []string{"docs/bake-reference.md", "docs/bake-stdlib.md", "docs/reference/buildx_bake.md"} {
		languages, err := s.Languages(path)
		if err != nil {
			return nil, err
		}
		for i, l := range languages {
			if name := names[l]; name != "" {
				all = append(all, &bake.Case{Name: fmt.Sprintf("%s#%d", path, i+1), Files: []bake.File{{Name: name, Text: bake.Text{Path: path, Number: i + 1}}}})
			}
		}
	}
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		all = append(all, &bake.Case{Name: module, Files: []bake.File{{Name: "docker-bake.hcl", Text: bake.Text{Module: module, Path: "docker-bake.hcl"}}}})
	}
	return all, nil
}
