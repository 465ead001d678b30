package cli

import (
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/report"
	"github.com/slipway-build/slipway/internal/terminal"
)

// table is rows of texts under titles, one of which takes what space there is. All texts are made harmless.
type table struct {
	title string
	heads []string
	right int // so many columns, the first ones, are numbers, which end at the same place
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// text writes the table in so many columns of a terminal, in which the last cell of a row is cut; 0 is as many as it takes.
func (t *table) text(w *strings.Builder, columns int) {
	widths := make([]int, len(t.heads))
	rows := append([][]string{t.heads}, t.rows...)
	for _, row := range rows {
		for i := range row {
			row[i] = terminal.Line(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	if t.title != "" {
		w.WriteString(t.title + "\n")
	}
	for _, row := range rows {
		used := 0
		for i, cell := range row {
			if i == len(row)-1 {
				if columns > 0 && row[0] != "" { // what goes on in a further line is for reading
					cell = terminal.Short(cell, max(columns-used, 12))
				}
				w.WriteString(cell)
				break
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < t.right {
				cell = pad + cell
			} else {
				cell += pad
			}
			w.WriteString(cell + "  ")
			used += widths[i] + 2
		}
		w.WriteString("\n")
	}
}

// markdown writes the table as one of GitHub's Markdown.
func (t *table) markdown(w *strings.Builder) {
	if t.title != "" {
		w.WriteString("### " + report.MarkdownText(t.title) + "\n\n")
	}
	line := func(cells []string) {
		for _, c := range cells {
			w.WriteString("| " + report.MarkdownText(c) + " ")
		}
		w.WriteString("|\n")
	}
	line(t.heads)
	for i := range t.heads {
		if i < t.right {
			w.WriteString("|---:")
		} else {
			w.WriteString("|---")
		}
	}
	w.WriteString("|\n")
	for _, row := range t.rows {
		line(row)
	}
	w.WriteString("\n")
}

// columnsOf is the width of a terminal, or 0 for what is none.
func columnsOf(w io.Writer) int {
	f := terminalOf(w)
	if f == nil {
		return 0
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 {
		return 80
	}
	return int(ws.Col)
}
