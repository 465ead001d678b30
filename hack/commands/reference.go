package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/cli"
)

const head = `# Commands

<!-- Written by "make docs" from the commands' own help: change that, not this page. -->

Every command and flag, as ` + "`slipway COMMAND --help`" + ` tells them. Names, flags and output are Docker's; when the
program is called ` + "`docker`" + `, through a link, it says so of itself. Flags of Docker's that make no sense here are
understood as well, and refused with the reason.

`

// page is a command in the reference, under all the names that it has.
type page struct {
	cmd   *cobra.Command
	names []string
}

// reference is the whole page.
func reference() []byte {
	root := cli.Commands()
	pages := collect(root)
	var out bytes.Buffer
	out.WriteString(head)
	out.WriteString("| command | |\n|---|---|\n")
	for _, p := range pages {
		fmt.Fprintf(&out, "| [`%s`](#%s) | %s |\n", p.names[0], anchor("slipway "+p.names[0]), text(p.cmd.Short))
	}
	out.WriteString("\n## Global options\n\nThey stand before or after the command.\n\n")
	options(&out, root.PersistentFlags())
	out.WriteString("\nBefore the command alone:\n\n")
	options(&out, root.LocalNonPersistentFlags())
	for _, p := range pages {
		p.write(&out)
	}
	return out.Bytes()
}

// collect finds the commands that are shown, each once: "image ls" and "images" are one. The shortest
// of its names is the first.
func collect(root *cobra.Command) []*page {
	known := map[string]*page{}
	var all []*page
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		if len(cmd.Commands()) > 0 {
			for _, c := range cmd.Commands() {
				walk(c)
			}
			return
		}
		name := strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
		key := signature(cmd)
		p := known[key]
		if p == nil {
			p = &page{cmd: cmd}
			known[key] = p
			all = append(all, p)
		}
		p.names = append(p.names, name)
		parent := strings.TrimSuffix(name, cmd.Name())
		for _, alias := range cmd.Aliases {
			if full := parent + alias; !slices.Contains(p.names, full) {
				p.names = append(p.names, full)
			}
		}
	}
	walk(root)
	for _, p := range all {
		slices.Sort(p.names)
		p.names = slices.Compact(p.names)
		slices.SortStableFunc(p.names, func(a, b string) int {
			return cmp.Or(cmp.Compare(strings.Count(a, " "), strings.Count(b, " ")), cmp.Compare(a, b))
		})
	}
	slices.SortFunc(all, func(a, b *page) int { return cmp.Compare(a.names[0], b.names[0]) })
	return all
}

// signature is what two commands that are the same have in common.
func signature(cmd *cobra.Command) string {
	key := cmd.Short
	if name, _, grouped := strings.Cut(cmd.CommandPath(), " completion "); grouped {
		key += name + cmd.Name()
	}
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			key += " " + f.Name
		}
	})
	return key
}

func (p *page) write(out *bytes.Buffer) {
	fmt.Fprintf(out, "\n## slipway %s\n\n%s\n\n```\n%s\n```\n", p.names[0], description(p.cmd), usage(p))
	if len(p.names) > 1 {
		var others []string
		for _, name := range p.names[1:] {
			others = append(others, "`"+name+"`")
		}
		fmt.Fprintf(out, "\nAlso: %s\n", strings.Join(others, ", "))
	}
	if p.cmd.HasAvailableLocalFlags() {
		out.WriteByte('\n')
		options(out, p.cmd.NonInheritedFlags())
	}
}

// description is the long text if there is one. Its indented lines are examples.
func description(cmd *cobra.Command) string {
	long := strings.TrimSpace(cmd.Long)
	if long == "" {
		return text(cmd.Short) + "."
	}
	var out []string
	for _, line := range strings.Split(long, "\n") {
		if code, ok := strings.CutPrefix(line, "\t"); ok {
			line = "    " + code
		} else if title, ok := strings.CutPrefix(line, "#### "); ok {
			line = "*" + text(title) + "*"
		} else {
			line = text(line)
		}
		out = append(out, strings.TrimRight(line, " "))
	}
	return strings.Join(out, "\n")
}

// usage is the usage line under the first name.
func usage(p *page) string {
	line := p.cmd.UseLine()
	return strings.ReplaceAll(strings.Replace(line, p.cmd.CommandPath(), "slipway "+p.names[0], 1), "\t", "")
}

// options is a table of flags.
func options(out *bytes.Buffer, flags *pflag.FlagSet) {
	out.WriteString("| option | value | |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		names := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			names = "`-" + f.Shorthand + "`, " + names
		}
		kind, help := pflag.UnquoteUsage(f)
		if kind == "stringArray" {
			kind = "list"
		}
		if def := f.DefValue; def != "" && def != "false" && def != "[]" && def != "0" && !strings.Contains(help, "(default") {
			help += " (default " + def + ")"
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", names, kind, text(help))
	})
}

// text is plain text as Markdown, on one line of a table.
func text(s string) string {
	return strings.NewReplacer("\n", "<br>", "|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`).Replace(strings.TrimSpace(s))
}

// anchor is the name that a heading gets.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), " ", "-") }
