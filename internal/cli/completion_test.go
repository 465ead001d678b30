package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestCompletionIsOfCommands finds names of commands and flags for which there is a completion, and that do not exist.
func TestCompletionIsOfCommands(t *testing.T) {
	a := &app{name: "slipway"}
	root := newRoot(a)
	flags, paths := map[string]bool{}, map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		paths[strings.TrimPrefix(c.CommandPath(), "slipway ")] = true
		c.Flags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = true })
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for path := range a.arguments() {
		if !paths[path] {
			t.Errorf("arguments of %q are completed, but there is no such command", path)
		}
	}
	names := append([]string{"target"}, freeValues...)
	for name := range flagValues() {
		names = append(names, name)
	}
	for name := range beginnings() {
		names = append(names, name)
	}
	for _, name := range names {
		if !flags[name] {
			t.Errorf("--%s is completed, but no command has it", name)
		}
	}
}
