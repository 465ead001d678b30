// Package bake compares what slipway reads out of bake files with what buildx reads out of them, and what both build of them.
//
// # Structure
//
// The definitions are those of buildx' own tests and documentation, and of some projects. They stay in the modules that
// have them, which the module cache holds: a [Case] has their places ([Text], source.go). testdata/buildx.jsonl has the
// cases, with what buildx answers to command lines with --print and --list ([Run], run.go). `make conformance` makes it (package
// record): it compiles buildx, lets buildx' tests run, and notes each call of its parser and each of its command lines, with the
// environment that holds then. The test of this package gives the command lines to slipway, so it needs neither buildx nor a
// network.
//
// cases/NAME.txtar are projects that both build (build.go); testdata/NAME.json is what buildx and BuildKit made of them.
//
// # Differences
//
// Standard output must be the same to the byte, and so must the exit status. What is on stderr must be the same without
// the lines of the display. There is none on purpose. Of what is built, those that stand in docs/differences.md are in a
// project's section "differs", as in package conformance.
package bake

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Case is one or more definitions in a directory, and what is asked about them.
type Case struct {
	Name  string   `json:"name"` // where buildx has them
	Files []File   `json:"files"`
	Env   []string `json:"env,omitempty"`
	Runs  []Run    `json:"runs"`
}

// File is a file of the directory, or one without a text and a name that ends in "/", which is a directory.
type File struct {
	Name string `json:"name"`
	Text
}

// Run is a command line after "bake", and what became of it. $DIR stands for the directory.
type Run struct {
	Args   []string        `json:"args"`
	Exit   int             `json:"exit,omitempty"`
	JSON   json.RawMessage `json:"json,omitempty"` // stdout, where it is JSON indented by two blanks
	Stdout string          `json:"stdout,omitempty"`
	Stderr string          `json:"stderr,omitempty"`
	// Unordered: the lines of stdout come in another order each time, as the targets of a matrix with several keys.
	Unordered bool `json:"unordered,omitempty"`
}

// SetStdout keeps what was written to stdout.
func (r *Run) SetStdout(out []byte) {
	var compact bytes.Buffer
	r.JSON, r.Stdout = nil, ""
	if json.Compact(&compact, out) == nil && compact.Len() > 0 {
		r.JSON = compact.Bytes()
		if r.Out() == string(out) {
			return
		}
	}
	r.JSON, r.Stdout = nil, string(out)
}

// Out is what was written to stdout.
func (r *Run) Out() string {
	if len(r.JSON) == 0 {
		return r.Stdout
	}
	var b bytes.Buffer
	if err := json.Indent(&b, r.JSON, "", "  "); err != nil {
		panic(err) // it was decoded as JSON
	}
	return b.String() + "\n"
}

// Sorted are the lines of stdout, sorted.
func (r *Run) Sorted() string {
	lines := strings.Split(strings.ReplaceAll(r.Out(), ",\n", "\n"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Record is what is kept of buildx: a first line with the modules and their versions, and a line for each case.
type Record struct {
	Modules map[string]string
	Cases   []*Case
}

// Write keeps a record.
func (r *Record) Write(file string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r.Modules); err != nil {
		return err
	}
	for _, c := range r.Cases {
		if err := e.Encode(c); err != nil {
			return err
		}
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// ReadRecord reads what Write wrote.
func ReadRecord(file string) (*Record, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, d := &Record{}, json.NewDecoder(bufio.NewReader(f))
	if err := d.Decode(&r.Modules); err != nil {
		return nil, err
	}
	for d.More() {
		c := &Case{}
		if err := d.Decode(c); err != nil {
			return nil, fmt.Errorf("reading case %d: %w", len(r.Cases), err)
		}
		r.Cases = append(r.Cases, c)
	}
	return r, nil
}

// Unpack writes the case's files below dir.
func (c *Case) Unpack(sources *Sources, dir string) error {
	for _, f := range c.Files {
		p := filepath.Join(dir, f.Name)
		if strings.HasSuffix(f.Name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				return err
			}
			continue
		}
		text, err := sources.Read(f.Text)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.Name, f.Name, err)
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
