package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandPaths are the names that lead to each command, the program's first, with all aliases.
func commandPaths(cmd *cobra.Command, above []string) map[*cobra.Command][][]string {
	all := map[*cobra.Command][][]string{cmd: nil}
	for _, name := range append([]string{cmd.Name()}, cmd.Aliases...) {
		path := append(slices.Clone(above), name)
		all[cmd] = append(all[cmd], path)
		for _, c := range cmd.Commands() {
			for c, paths := range commandPaths(c, path) {
				all[c] = append(all[c], paths...)
			}
		}
	}
	return all
}

func flagNames(f *pflag.FlagSet) (names []string) {
	f.VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name+" -"+f.Shorthand+" "+f.DefValue) })
	return names
}

// TestCalledCommandsAreWhole compares each command of a tree that is made for a call of it with that of
// the tree that has everything.
func TestCalledCommandsAreWhole(t *testing.T) {
	for cmd, paths := range commandPaths(newRoot(&app{name: "slipway"}), nil) {
		for _, path := range paths {
			words := path[1:]
			root := newRoot(&app{name: "slipway", words: append([]string{"--debug"}, words...)})
			got, _, err := root.Traverse(words)
			if err != nil {
				t.Fatal(err)
			}
			if g, w := flagNames(got.LocalFlags()), flagNames(cmd.LocalFlags()); !slices.Equal(g, w) {
				t.Errorf("%s has the flags %q, want %q", strings.Join(path, " "), g, w)
			}
			if got.Short != cmd.Short || got.Hidden != cmd.Hidden || got.Runnable() != cmd.Runnable() {
				t.Errorf("%s differs from what is listed of it", strings.Join(path, " "))
			}
		}
	}
}

// TestOtherCommandsHaveNoFlags: making them takes longer than most commands.
func TestOtherCommandsHaveNoFlags(t *testing.T) {
	root := newRoot(&app{name: "slipway", words: []string{"version"}})
	for cmd := range commandPaths(root, nil) {
		if names := flagNames(cmd.LocalNonPersistentFlags()); cmd != root && cmd.Name() != "version" && len(names) > 0 {
			t.Errorf("for a call of another command, %s has the flags %q", cmd.CommandPath(), names)
		}
	}
}

// TestOtherCommandsAreNotMade, and what is no command, or one that is not there, is told as when all are.
func TestOtherCommandsAreNotMade(t *testing.T) {
	root := newRoot(&app{name: "slipway", words: []string{"version"}})
	if all := root.Commands(); len(all) != 1 || all[0].Name() != "version" {
		t.Errorf("for a call of version there are %d commands", len(all))
	}
	for line, want := range map[string]string{
		"biuld build":            "unknown command: slipway biuld (did you mean build?)",
		"--debug biuld -t build": "unknown command: slipway biuld (did you mean build?)",
		"pause build":            "slipway pause: " + absentCommands["pause"],
		"pause -it build":        "slipway pause: " + absentCommands["pause"],
		"--nosuchflag build":     "unknown flag: --nosuchflag",
	} {
		var out, err bytes.Buffer
		if code := Main(append([]string{"slipway"}, strings.Fields(line)...), nil, &out, &err); code == 0 || !strings.Contains(err.String(), want) || strings.Count(err.String(), want) != 1 {
			t.Errorf("slipway %s: exit code %d, %q, want %q once", line, code, err.String(), want)
		}
	}
	var out, err bytes.Buffer
	if code := Main([]string{"slipway", "--help"}, nil, &out, &err); code != 0 || !strings.Contains(out.String(), "\n  imagetools ") {
		t.Errorf("slipway --help: exit code %d, %q", code, out.String()+err.String())
	}
}
