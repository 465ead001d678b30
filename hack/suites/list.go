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

// machine begins reasons that hold for every daemon on such a machine; lacks is what a test finds out itself, having done what it can: it must not fail.
const (
	machine = "machine: "
	lacks   = machine + "skips, "
)

// itself begins reasons of tests that skip themselves, whatever the daemon: they are for other systems, or other variants.
const itself = "skips itself: "

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
	b.WriteString("# Tests that do not pass, and why: see hack/suites/main.go.\n")
	for _, name := range slices.Sorted(maps.Keys(l)) {
		fmt.Fprintf(&b, "%s\t%s\n", name, l[name])
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// family is the name of a test without its variant: of TestCopy/frontend=client, TestCopy.
func family(name string) string {
	f, _, _ := strings.Cut(name, "/")
	return f
}

// reason is why a test does not pass; "" is that it does.
func (l list) reason(unit string) string {
	name := short(unit)
	if r := l[name]; r != "" {
		return r
	}
	return l[family(name)]
}

// list is that of the tests that did not pass, with the reasons that are known. Where not all ran, it keeps the others.
func (all results) list(known list, whole, onMachine bool) list {
	l := list{}
	ran := map[string]map[string]string{} // of each family, the variants with their reasons
	for unit, r := range all {
		name := short(unit)
		if ran[family(name)] == nil {
			ran[family(name)] = map[string]string{}
		}
		reason := ""
		if r.action != "pass" {
			if reason = known.reason(unit); reason == "" {
				reason = r.reason()
				if onMachine {
					reason = machine + reason
				}
			}
		}
		ran[family(name)][name] = reason
	}
	for name, reason := range known {
		if !whole && ran[family(name)] == nil {
			l[name] = reason
		}
	}
	for name, variants := range ran {
		reasons := slices.Compact(slices.Sorted(maps.Values(variants)))
		if len(reasons) == 1 && reasons[0] != "" {
			l[name] = reasons[0]
			continue
		}
		for name, reason := range variants {
			if reason != "" {
				l[name] = reason
			}
		}
	}
	return l
}

// reason is what a test that did not pass says itself.
func (r *result) reason() string {
	said := ""
	for line := range strings.Lines(r.own()) {
		switch line = strings.TrimSpace(line); {
		case r.action == "skip" && line != "" && !strings.HasPrefix(line, "---"):
			said = line // the last one
		case r.action == "fail" && said == "" && strings.HasPrefix(line, "Error:"):
			said = strings.TrimSpace(strings.TrimPrefix(line, "Error:"))
		case r.action == "fail" && said == "" && strings.Contains(line, "_test.go:"): // moby's
			_, said, _ = strings.Cut(line, "_test.go:")
		}
	}
	switch r.action {
	case "skip":
		return "skipped: " + said
	case "hang":
		return "does not end"
	}
	if said == "" {
		return unknown
	}
	return unknown + ": " + said
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
func (all results) compare(out io.Writer, known list, whole bool, goal int) (ok bool) {
	ok = true
	passed, lacking, skipping := 0, 0, 0
	there := map[string]bool{}
	for _, unit := range slices.Sorted(maps.Keys(all)) {
		r, name, reason := all[unit], short(unit), known.reason(unit)
		there[name], there[family(name)] = true, true
		switch {
		case r.action == "pass" && reason != "":
			ok = false
			fmt.Fprintf(out, "PASSES, and is listed: %s\n", name)
		case (strings.HasPrefix(reason, itself) || strings.HasPrefix(reason, lacks)) && r.action != "skip":
			ok = false
			fmt.Fprintf(out, "DOES NOT SKIP ITSELF (%s): %s\n%s", r.action, name, r.own())
		case r.action != "pass" && reason == "":
			ok = false
			fmt.Fprintf(out, "DOES NOT PASS (%s): %s\n%s", r.action, name, r.own())
		}
		switch {
		case r.action == "pass":
			passed++
		case strings.HasPrefix(reason, machine):
			lacking++
		case strings.HasPrefix(reason, itself):
			skipping++
		}
	}
	if whole {
		for _, name := range slices.Sorted(maps.Keys(known)) {
			if !there[name] {
				ok = false
				fmt.Fprintf(out, "IS NOT THERE, and is listed: %s\n", name)
			}
		}
	}
	if can := len(all) - lacking - skipping; can > 0 {
		fmt.Fprintf(out, "%d of %d tests pass, %.1f %%", passed, can, 100*float64(passed)/float64(can))
		if goal > 0 {
			fmt.Fprintf(out, " (the goal is %d %%)", goal)
		}
		fmt.Fprintf(out, "; %d more need what this machine lacks, %d skip themselves\n", lacking, skipping)
	}
	return ok
}

// keep writes the output of tests that did not pass, a file each, and removes that of those that did.
func (all results) keep(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for unit, r := range all {
		file := filepath.Join(dir, strings.ReplaceAll(short(unit), "/", "_")+".log")
		var err error
		if r.action == "pass" {
			err = os.RemoveAll(file)
		} else {
			err = os.WriteFile(file, []byte(r.output.String()), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
