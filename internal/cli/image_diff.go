package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view/imagediff"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

type imageDiffFlags struct {
	format, platform string
	all, exitCode    bool
	imagediff.Options
}

func newImageDiffCmd(a *app) *cobra.Command {
	var opts imageDiffFlags
	cmd := &cobra.Command{
		Use:   "diff [OPTIONS] IMAGE IMAGE",
		Short: "Show how two images differ",
		Long: `Show how two images differ: in their configuration, history, packages (of dpkg, apk and rpm), sizes and files

` + imageSources + `

The exit code is 0 whether or not they differ, as that of ` + "`docker diff`" + ` is: scripts run with "set -e". With --exit-code it is 1 if
they differ, as with ` + "`git diff --exit-code`.",
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.showImageDiff(cmd.Context(), args[0], args[1], &opts)
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&opts.format, "format", "table", `Format output ("table", "json")`)
	f.StringVar(&opts.platform, "platform", "", `Compare what multi-platform images are for a platform, such as "linux/amd64"`)
	f.BoolVar(&opts.all, "all", false, "Show each file of directories that one image alone has")
	f.BoolVar(&opts.Times, "times", false, "Compare times of files, and when the images were made")
	f.BoolVar(&opts.exitCode, "exit-code", false, "Exit with 1 if the images differ")
	return cmd
}

func (a *app) showImageDiff(ctx context.Context, nameA, nameB string, opts *imageDiffFlags) error {
	if opts.format != "" && opts.format != "table" && opts.format != "json" {
		return fmt.Errorf("--format %q: want table or json", opts.format)
	}
	var images [2]imagediff.Image
	for i, name := range []string{nameA, nameB} {
		img, _, err := a.imageFor(ctx, name, opts.platform)
		if err != nil {
			return err
		}
		images[i] = imagediff.Image{Name: name, Image: img}
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	c, err := imagediff.Compare(ctx, s, images[0], images[1], opts.Options)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.stdout)
	show := imageDiffTable
	if opts.format == "json" {
		show = imageDiffJSON
	}
	sum, err := show(ctx, out, c, opts)
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if opts.exitCode && !c.Empty(sum) {
		return &codeError{code: 1}
	}
	return nil
}

// imageDiffJSON prints one document whose files are written as they come: docs/size.md has its fields.
func imageDiffJSON(ctx context.Context, w io.Writer, c *imagediff.Comparison, opts *imageDiffFlags) (imagediff.Sum, error) {
	head, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return imagediff.Sum{}, err
	}
	fmt.Fprintf(w, "%s,\n  \"files\": [", bytes.TrimSuffix(head, []byte("\n}")))
	comma := ""
	sum, err := c.Files(ctx, opts.Options, func(change imagediff.Change) error {
		line, err := json.Marshal(change)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n    %s", comma, line)
			comma = ","
		}
		return err
	})
	if err != nil {
		return sum, err
	}
	tail, err := json.Marshal(sum)
	if err == nil {
		_, err = fmt.Fprintf(w, "\n  ],\n  \"sum\": %s\n}\n", tail)
	}
	return sum, err
}

func imageDiffTable(ctx context.Context, w io.Writer, c *imagediff.Comparison, opts *imageDiffFlags) (imagediff.Sum, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s in %s) -> %s (%s in %s): %s\n", terminal.Line(c.A.Image), size(c.A.Size), count(c.A.Layers, "layer"),
		terminal.Line(c.B.Image), size(c.B.Size), count(c.B.Layers, "layer"), more(c.B.Size-c.A.Size))
	for _, t := range []*table{valueTable(c), stepTable(c), packageTable(c)} {
		if len(t.rows) > 0 {
			b.WriteString("\n")
			t.text(&b, 0)
		}
	}
	for _, db := range c.Unread {
		fmt.Fprintf(&b, "\nPackages of rpm are not compared: the database %s is damaged\n", terminal.Line(db))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return imagediff.Sum{}, err
	}
	p := &changePrinter{w: w, all: opts.all}
	sum, err := c.Files(ctx, opts.Options, p.add)
	if err == nil {
		err = p.flush()
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "\nFiles: %d added, %d removed, %d changed: %s\n", sum.Added, sum.Removed, sum.Changed, more(sum.Bytes))
	}
	return sum, err
}

// more is a number of bytes with its sign.
func more(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	return "+" + size(n)
}

func valueTable(c *imagediff.Comparison) *table {
	t := &table{title: "Configuration", heads: []string{"", "FIELD", "VALUE"}}
	for _, v := range c.Config {
		if v.A != nil {
			t.add("-", v.Field, *v.A)
		}
		if v.B != nil {
			t.add("+", v.Field, *v.B)
		}
	}
	return t
}

func stepTable(c *imagediff.Comparison) *table {
	t := &table{title: "History", heads: []string{"", "INSTRUCTION"}}
	for _, s := range c.History {
		sign := "+"
		if s.Kind == layer.Removed {
			sign = "-"
		}
		t.add(sign, (&imagesize.Instruction{CreatedBy: s.CreatedBy}).Text())
	}
	return t
}

func packageTable(c *imagediff.Comparison) *table {
	t := &table{title: "Packages", heads: []string{"", "PACKAGE", "SIZE", "VERSION"}}
	for _, p := range c.Packages {
		sign, version := "C", p.A+" -> "+p.B
		if p.A == "" {
			sign, version = "A", p.B
		} else if p.B == "" {
			sign, version = "D", p.A
		}
		t.add(sign, p.Name, more(p.Bytes), version)
	}
	return t
}

// changePrinter prints a line for each change, with `docker diff`'s letters. A directory that one image alone has is one
// line, unless all are wanted.
type changePrinter struct {
	w     io.Writer
	all   bool
	begun bool

	open  *imagediff.Change // a directory whose files are being counted
	files int
	bytes int64
}

func (p *changePrinter) add(c imagediff.Change) error {
	if p.open != nil && c.Kind == p.open.Kind && strings.HasPrefix(c.Path, strings.TrimSuffix(p.open.Path, "/")+"/") {
		if f := fileIn(c); f.Type != "directory" {
			p.files++
			p.bytes += f.Size
		}
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	if f := fileIn(c); !p.all && c.Kind != layer.Changed && f.Type == "directory" {
		p.open, p.files, p.bytes = &c, 0, 0
		return nil
	}
	return p.line(c, describeChange(c))
}

// flush prints the directory that was counted.
func (p *changePrinter) flush() error {
	if p.open == nil {
		return nil
	}
	c := *p.open
	p.open = nil
	c.Path += "/"
	text := ""
	if p.files > 0 {
		text = fmt.Sprintf("%s, %s", count(p.files, "file"), size(p.bytes))
	}
	return p.line(c, text)
}

func (p *changePrinter) line(c imagediff.Change, text string) error {
	head := ""
	if !p.begun {
		head, p.begun = "\nFiles\n", true
	}
	if text != "" {
		text = "  (" + text + ")"
	}
	letter := map[layer.DiffKind]string{layer.Added: "A", layer.Removed: "D", layer.Changed: "C"}[c.Kind]
	_, err := fmt.Fprintf(p.w, "%s%s %s%s\n", head, letter, terminal.Line(c.Path), text)
	return err
}

// fileIn is what the image has that has it, B's where both have.
func fileIn(c imagediff.Change) *imagediff.File {
	if c.B != nil {
		return c.B
	}
	return c.A
}

// describeChange tells what is another, with both values where they are short.
func describeChange(c imagediff.Change) string {
	if c.Kind != layer.Changed {
		if f := fileIn(c); f.Type != "file" {
			return terminal.Line(strings.TrimSuffix(f.Type+" -> "+f.Link, " -> "))
		} else {
			return size(f.Size)
		}
	}
	var all []string
	for _, what := range c.What {
		switch what {
		case "type":
			what += " " + c.A.Type + " -> " + c.B.Type
		case "mode":
			what += " " + c.A.Mode + " -> " + c.B.Mode
		case "owner":
			what += fmt.Sprintf(" %d:%d -> %d:%d", c.A.UID, c.A.GID, c.B.UID, c.B.GID)
		case "size":
			what += " " + size(c.A.Size) + " -> " + size(c.B.Size)
		case "link":
			what += " " + c.A.Link + " -> " + c.B.Link
		}
		all = append(all, terminal.Line(what))
	}
	return strings.Join(all, ", ")
}
