package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/cli"
)

// manPages writes a page of section 1 for each command into a directory: slipway-image-ls.1.
func manPages(dir, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := cli.Commands()
	root.InitDefaultCompletionCmd()
	markdown(root, map[*pflag.Flag]bool{})
	root.DisableAutoGenTag = true
	return doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Header:           &doc.GenManHeader{Section: "1", Source: strings.TrimSpace("slipway " + version), Manual: "slipway's commands"},
		Path:             dir,
		CommandSeparator: "-",
	})
}

// markdown makes what a command tells Markdown, of which the pages are made: indented lines stay lines, and "<HOST>" is no HTML.
func markdown(cmd *cobra.Command, done map[*pflag.Flag]bool) {
	escape := strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`).Replace
	var lines []string
	for _, line := range strings.Split(cmd.Long, "\n") {
		if code, ok := strings.CutPrefix(line, "\t"); ok {
			lines = append(lines, "    "+code)
		} else {
			lines = append(lines, escape(line))
		}
	}
	cmd.Long = strings.Join(lines, "\n")
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if !done[f] {
				done[f], f.Usage = true, escape(f.Usage)
			}
		})
	}
	for _, c := range cmd.Commands() {
		markdown(c, done)
	}
}
