package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// list has the tests that do not pass, and why.
type list map[string]string

// machine begins reasons that hold for every daemon on such a machine.
const machine = "machine: "

// unknown is the reason of a test that was recorded and not looked at.
const unknown = "not looked at"

func readList(file string) (list, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return list{}, nil
	}
	if err != nil {
		return nil, err
	}
	l := list{}
	for i, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, ok := strings.Cut(line, "\t")
		if !ok || reason == "" {
			return nil, fmt.Errorf("%s:%d: no reason", file, i+1)
		}
		if l[name] != "" {
			return nil, fmt.Errorf("%s:%d: %s stands twice", file, i+1, name)
		}
		l[name] = reason
	}
	return l, nil
}

func (l list) write(file string) error {
	var b strings.Builder
	b.WriteString("# Tests of BuildKit that do not pass, and why: see hack/suites.\n")
	for _, name := range slices.Sorted(maps.Keys(l)) {
		fmt.Fprintf(&b, "%s\t%s\n", name, l[name])
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// list is that of the tests that did not pass. A skipped test is one where the skip has no reason in the machine.
func (all results) list(known list) list {
	l := list{}
	for unit, r := range all {
		if r.action == "pass" {
			continue
		}
		name := short(unit)
		l[name] = known[name]
		if l[name] == "" {
			l[name] = unknown
			if r.action == "skip" {
				l[name] = "skipped: " + r.reason()
			}
		}
	}
	return l
}

// reason is the last line of a skipped test's own output.
func (r *result) reason() string {
	last := unknown
	for line := range strings.Lines(r.own()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "---") {
			last = line
		}
	}
	return last
}

// own is the beginning of what a test printed itself, without its daemon's log.
func (r *result) own() string {
	const most = 20
	var b strings.Builder
	n := 0
	for line := range strings.Lines(r.output.String()) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "===") || strings.HasPrefix(text, "sandbox.go:") {
			continue
		}
		if n++; n > most {
			break
		}
		b.WriteString("\t" + text + "\n")
	}
	return b.String()
}

// compare tells what is not as the list says. Where all tests ran, tests of the list that are not there count as well.
func (all results) compare(out io.Writer, known list, whole bool) (ok bool) {
	ok = true
	passed, lacking := 0, 0
	for _, unit := range slices.Sorted(maps.Keys(all)) {
		r, name := all[unit], short(unit)
		reason := known[name]
		switch {
		case r.action == "pass" && reason != "":
			ok = false
			fmt.Fprintf(out, "PASSES, and is listed: %s\n", name)
		case r.action != "pass" && reason == "":
			ok = false
			fmt.Fprintf(out, "DOES NOT PASS (%s): %s\n%s", r.action, name, r.own())
		}
		switch {
		case r.action == "pass":
			passed++
		case strings.HasPrefix(reason, machine):
			lacking++
		}
	}
	if whole {
		for name := range known {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(u string) bool { return short(u) == name }) {
				ok = false
				fmt.Fprintf(out, "IS NOT THERE, and is listed: %s\n", name)
			}
		}
	}
	if can := len(all) - lacking; can > 0 {
		fmt.Fprintf(out, "%d of %d tests passed, %.1f %%; %d more need what this machine lacks\n", passed, can, 100*float64(passed)/float64(can), lacking)
	}
	return ok
}

// keep writes the output of tests that did not pass, a file each.
func (all results) keep(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for unit, r := range all {
		if r.action == "pass" {
			continue
		}
		file := strings.ReplaceAll(short(unit), "/", "_") + ".log"
		if err := os.WriteFile(filepath.Join(dir, file), []byte(r.output.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
