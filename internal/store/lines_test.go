package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

const hidden = "correct horse battery staple"

// wantHidden looks for a value in all files of a store.
func wantHidden(t *testing.T, root string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(hidden)) {
			t.Errorf("the value is in %s", path)
		}
		return err
	}))
}

func TestValuesAreNotRecorded(t *testing.T) {
	s := newStore(t)
	lines := []string{"operation exec", "command make", "environment PATH=/bin", "environment TOKEN=" + hidden, "environment EMPTY=",
		fmt.Sprintf("environment %q", "TEXT=two\nlines="+hidden), "environment odd", "user a=b"}
	must(t, s.PutResult(t.Context(), "k", "slot", Result{Lines: lines}))
	r, _, _, err := s.Result(t.Context(), "k")
	must(t, err)
	got := r.Lines
	again, err := s.Masked(got)
	must(t, err)
	if !slices.Equal(again, got) {
		t.Errorf("masked again they are %q, want %q", again, got)
	}
	for _, l := range [][]string{got, lines} {
		want := []string{"operation exec", "command make", "environment PATH", "environment TOKEN", "environment EMPTY", "environment TEXT", "environment odd", "user a=b"}
		if names := WithoutValues(l...); !slices.Equal(names, want) {
			t.Errorf("without values they are %q, want %q", names, want)
		}
	}
	other, err := open(t, s.root).Masked(lines) // another process
	must(t, err)
	if !slices.Equal(other, got) {
		t.Errorf("another process masks them as %q, want %q", other, got)
	}
	lines[3] += "!"
	changed, err := s.Masked(lines)
	must(t, err)
	for i := range got {
		if (changed[i] == got[i]) != (i != 3) {
			t.Errorf("line %q is now %q", got[i], changed[i])
		}
	}
	foreign, err := newStore(t).Masked(lines[2:3])
	must(t, err)
	if foreign[0] == got[2] {
		t.Error("two stores give a value the same code: anybody can try values")
	}
	root := s.root
	must(t, s.Close())
	wantHidden(t, root)
}

// The first ones to need a key agree on one.
func TestKeyOfValues(t *testing.T) {
	s := newStore(t)
	keys := make([]string, 8)
	var g errgroup.Group
	for i := range keys {
		g.Go(func() error {
			key, err := s.readMaskKey()
			keys[i] = string(key)
			return err
		})
	}
	must(t, g.Wait())
	if slices.Sort(keys); len(keys[0]) != 32 || keys[0] != keys[len(keys)-1] {
		t.Errorf("the keys are %x", keys)
	}
}

// A damaged key is made anew: it keeps nobody from building.
func TestDamagedKeyOfValues(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut":       func(path string) error { return os.Truncate(path, 5) },
		"emptied":   func(path string) error { return os.Truncate(path, 0) },
		"directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		s := newStore(t)
		_, err := s.readMaskKey()
		must(t, err)
		must(t, damage(filepath.Join(s.root, "mask")))
		key, err := s.readMaskKey()
		again, rerr := s.readMaskKey()
		if err != nil || rerr != nil || len(key) != 32 || string(key) != string(again) {
			t.Errorf("%s: the keys are %x and %x, %v, %v", name, key, again, err, rerr)
		}
		wantClean(t, s)
	}
}

// What older versions wrote down is taken out of the store, also where it was deleted.
func TestUpgradeMasksValues(t *testing.T) {
	record := fmt.Sprintf(`{"outputs":null,"created":"2020-01-01T00:00:00Z","took":1,"lines":["command make","environment A=%s %s"]}`,
		hidden, strings.Repeat("long ", 3000))
	root := oldStore(t, "INSERT INTO results VALUES('k','slot','"+record+"',1,'')", "INSERT INTO results VALUES('gone','slot','"+record+"',1,'')",
		"DELETE FROM results WHERE key='gone'", "INSERT INTO results VALUES('damaged','slot','{"+hidden+"',1,'')")
	build := filepath.Join(root, "builds", "1")
	must(t, os.Mkdir(build, 0o700))
	must(t, os.WriteFile(filepath.Join(build, "record.json"), []byte(`{
  "command": [
    "slipway", "build",
    "--build-arg",
    "A=`+hidden+`",
    "--build-arg=B=\\\"`+hidden+`\"",
    "."
  ],
  "steps": [{"name": "RUN a=b", "reason": "changed: environment A=`+hidden+`"}, {"reason": "no longer there: environment \"A=\\n`+hidden+`\""}]
}`), 0o600))
	s := open(t, root)
	r, _, _, err := s.Result(t.Context(), "k")
	must(t, err)
	got := r.Lines
	if names := WithoutValues(got...); !slices.Equal(names, []string{"command make", "environment A"}) {
		t.Errorf("the lines are %q", names)
	}
	if r, found, why, err := s.Result(t.Context(), "k"); err != nil || !found || r.Took != 1 {
		t.Errorf("the result is %v, %t, %s, %v", r, found, why, err)
	}
	wantHidden(t, root)
	data, err := os.ReadFile(filepath.Join(build, "record.json"))
	must(t, err)
	for _, part := range []string{`"A=..."`, `"--build-arg=B=..."`, `"changed: environment A"`, `"."`, `"RUN a=b"`} {
		if !strings.Contains(string(data), part) {
			t.Errorf("the record has no %s: %s", part, data)
		}
	}
}

// What records of builds have of values: those that are no secrets.
func TestTellable(t *testing.T) {
	s := newStore(t)
	for line, told := range map[string]bool{
		"command make":                      true,
		"environment VERSION=1.26.3":        true,
		"environment VERSION=v1":            true,
		"environment VERSION=1.26-rc2":      true,
		"environment GO=1.26-bookworm":      true,
		"environment DATE=2026-01-31":       true,
		"environment DEBUG=true":            true,
		"environment EMPTY=":                true,
		"environment TARGET=linux/arm64/v8": true,
		"environment N=42":                  true,
		"environment TOKEN=1":               false,
		"environment API_KEY=1.2":           false,
		"environment DB_PASSWORD=1":         false,
		"environment DB_PW=1":               false,
		"environment X_PIN=1234":            false,
		"environment OTHER=battery-staple":  false,
		"environment OTHER=hunter2":         false,
		"environment OTHER=123456":          false, // a number that long may be one
		"environment PATH=/bin":             false,
		"environment OTHER=ghp_1234":        false,
		`environment "OTHER=1\n2"`:          false,
	} {
		got, err := s.Tellable([]string{line})
		must(t, err)
		if (got[0] == line) != told {
			t.Errorf("of %q records have %q", line, got[0])
		}
	}
}
