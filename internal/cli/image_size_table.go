package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-build/slipway/internal/report"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view/imagesize"
)

func (a *app) imageSizeTable(r *imagesize.Report, verdicts []imagesize.Verdict, opts *imageSizeFlags) error {
	var b strings.Builder
	b.WriteString(terminal.Line(imageSizeHead(r)) + "\n")
	columns := 0
	if !opts.noTrunc {
		columns = columnsOf(a.stdout)
	}
	for _, t := range imageSizeTables(r, verdicts, opts.most) {
		b.WriteString("\n")
		t.text(&b, columns)
	}
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

func (a *app) imageSizeMarkdown(r *imagesize.Report, verdicts []imagesize.Verdict, opts *imageSizeFlags) error {
	var b strings.Builder
	b.WriteString("## " + report.MarkdownText(imageSizeHead(r)) + "\n\n")
	for _, t := range imageSizeTables(r, verdicts, opts.most) {
		t.markdown(&b)
	}
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

func imageSizeHead(r *imagesize.Report) string {
	return fmt.Sprintf("%s (%s): %s in %s, %s; %s (%s) wasted", r.Image, r.Platform, size(r.Size), count(r.Layers, "layer"), count(r.Files, "file"),
		size(r.Wasted), percent(r.Wasted, r.Size))
}

func percent(part, whole int64) string {
	if whole == 0 {
		return "0.0%"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(whole))
}

// imageSizeTables are the tables of a report that have rows.
func imageSizeTables(r *imagesize.Report, verdicts []imagesize.Verdict, most int) []*table {
	all := []*table{instructionTable(r), directoryTable(r, most), hiddenTable(r, most), twiceTable(r, most), leftoverTable(r, most), limitTable(verdicts)}
	kept := all[:0]
	for _, t := range all {
		if len(t.rows) > 0 {
			kept = append(kept, t)
		}
	}
	return kept
}

// numberOf is what an instruction is called in all tables: its place in the history, from 1 on.
func numberOf(index int) string { return strconv.Itoa(index + 1) }

func instructionTable(r *imagesize.Report) *table {
	t := &table{title: "Instructions, the first one first", heads: []string{"#", "SIZE", "WASTED", "HIDES", "INSTRUCTION"}, right: 4}
	for i := range r.Instructions {
		in := &r.Instructions[i]
		if in.Layer < 0 {
			continue
		}
		text := in.Text()
		if text == "" {
			text = "(not in the history)"
		}
		t.add(numberOf(i), size(in.Size), size(in.Wasted), size(in.Hides), text)
	}
	return t
}

// directoryTable is the tree of directories, in so many rows as three lists have: the largest ones, each with those above it.
func directoryTable(r *imagesize.Report, most int) *table {
	t := &table{title: "Directories and files", heads: []string{"SIZE", "SHARE", "WASTED", "PATH"}, right: 3}
	least := leastOf(r.Root, 3*most)
	var rows func(n *imagesize.Node, prefix, path string)
	rows = func(n *imagesize.Node, prefix, path string) {
		for len(n.Children) == 1 && n.Children[0].Size == n.Size && n.Children[0].Wasted == n.Wasted && strings.HasSuffix(n.Children[0].Name, "/") {
			n = n.Children[0]
			path += n.Name
		}
		t.add(size(n.Size), percent(n.Size, r.Shown), size(n.Wasted), prefix+path)
		for _, c := range n.Children {
			if max(c.Size, c.Wasted) >= least {
				rows(c, prefix+"  ", c.Name)
			}
		}
	}
	if r.Root.Size+r.Root.Wasted > 0 {
		rows(r.Root, "", "/")
	}
	return t
}

// leastOf is how large a directory or file is at least to be among the n largest.
func leastOf(root *imagesize.Node, n int) int64 {
	var sizes []int64
	var walk func(*imagesize.Node)
	walk = func(n *imagesize.Node) {
		sizes = append(sizes, max(n.Size, n.Wasted))
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(root)
	if len(sizes) <= n {
		return 0
	}
	slices.Sort(sizes)
	return sizes[len(sizes)-n]
}

func hiddenTable(r *imagesize.Report, most int) *table {
	t := &table{title: "Wasted: what a later layer hides", heads: []string{"SIZE", "BY", "HIDDEN BY", "HOW", "PATH"}, right: 3}
	for _, h := range r.Hidden[:min(most, len(r.Hidden))] {
		t.add(size(h.Size), "#"+numberOf(h.Instruction), "#"+numberOf(h.HiddenBy), string(h.How), h.Path)
	}
	return t
}

func twiceTable(r *imagesize.Report, most int) *table {
	title := fmt.Sprintf("Twice: %s more than one of each content (%s)", count(r.Twice.Files, "file"), size(r.Twice.Size))
	t := &table{title: title, heads: []string{"MORE", "COPIES", "PATHS"}, right: 2}
	for _, c := range r.Twice.Contents[:min(most, len(r.Twice.Contents))] {
		var places []string
		for _, p := range c.Places {
			places = append(places, fmt.Sprintf("%s (#%s)", p.Path, numberOf(p.Instruction)))
		}
		if c.Copies > len(places) {
			places = append(places, "...")
		}
		t.add(size(c.Extra()), strconv.Itoa(c.Copies), strings.Join(places, ", "))
	}
	return t
}

func leftoverTable(r *imagesize.Report, most int) *table {
	t := &table{title: "Leftovers, with what avoids them", heads: []string{"SIZE", "BY", "WHAT"}, right: 2}
	for _, l := range r.Leftovers[:min(most, len(r.Leftovers))] {
		by, places := []string{}, []string{}
		for _, s := range l.By[:min(2, len(l.By))] {
			by = append(by, "#"+numberOf(s.Instruction))
		}
		for _, p := range l.Places[:min(2, len(l.Places))] {
			places = append(places, p.Path)
		}
		t.add(size(l.Size), strings.Join(by, ","), fmt.Sprintf("%s (%s): %s", l.What, l.Why, strings.Join(places, ", ")))
		t.add("", "", "  "+l.Fix)
	}
	return t
}

func limitTable(verdicts []imagesize.Verdict) *table {
	t := &table{title: "Limits", heads: []string{"LIMIT", "MOST", "IS", "VERDICT"}}
	for _, v := range verdicts {
		verdict := "ok"
		if v.Exceeded {
			verdict = "exceeded"
		}
		t.add("--"+v.Name, v.Most, size(v.Is), verdict)
	}
	return t
}
