package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"unicode/utf8"
)

// Sizes in pixels; a character of the monospaced font takes the width whatever font a viewer has, by textLength.
const (
	charWidth, lineHeight, border = 8, 18, 14
	fontSize                      = 13
	pause                         = 1.2 // seconds from one command to the next
)

// colours are those of ECMA-48 on a dark ground.
var colours = map[int]string{30: "#6b7280", 31: "#f87171", 32: "#4ade80", 33: "#facc15", 34: "#60a5fa", 35: "#e879f9", 36: "#22d3ee", 37: "#f9fafb"}

// draw makes the picture. Where animations are not shown, or not wanted, all of it is there at once.
func draw(all []entry, columns int) []byte {
	var body bytes.Buffer
	y := border + lineHeight
	for i, e := range all {
		fmt.Fprintf(&body, "<g class=\"e\" style=\"animation-delay:%.1fs\">\n", float64(i)*pause)
		var prompt []cell
		if e.command[0] == '#' {
			prompt = cells(e.command, cell{faint: true})
		} else {
			prompt = append(cells("$ ", cell{colour: 32, bold: true}), cells(e.command, cell{bold: true})...)
		}
		for len(prompt) > columns {
			line(&body, y, prompt[:columns])
			prompt, y = prompt[columns:], y+lineHeight
		}
		for _, row := range append([][]cell{prompt}, e.output...) {
			line(&body, y, row)
			y += lineHeight
		}
		y += lineHeight / 2
		body.WriteString("</g>\n")
	}
	width, height := columns*charWidth+2*border, y
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="%d" fill="#e5e7eb">
<style>.e{opacity:1}@media (prefers-reduced-motion:no-preference){.e{animation:e .3s both}}@keyframes e{from{opacity:0}to{opacity:1}}text{white-space:pre}</style>
<rect width="100%%" height="100%%" rx="8" fill="#111827"/>
`, width, height, width, height, fontSize)
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// cells is text of one style.
func cells(text string, style cell) (all []cell) {
	for _, r := range text {
		style.char = r
		all = append(all, style)
	}
	return all
}

// line draws a row, each run of one style as a text of its own. Spaces around it are not drawn.
func line(out *bytes.Buffer, y int, row []cell) {
	for from := 0; from < len(row); {
		to := from
		var text []byte
		for ; to < len(row) && same(row[from], row[to]); to++ {
			text = utf8.AppendRune(text, row[to].char)
		}
		if kept := bytes.TrimLeft(text, " "); len(bytes.TrimSpace(kept)) > 0 {
			x := from + len(text) - len(kept)
			kept = bytes.TrimRight(kept, " ")
			n := utf8.RuneCount(kept)
			fmt.Fprintf(out, `<text x="%d" y="%d" textLength="%d"`, border+x*charWidth, y, n*charWidth)
			if c := colours[row[from].colour]; c != "" {
				fmt.Fprintf(out, ` fill="%s"`, c)
			}
			if row[from].bold {
				out.WriteString(` font-weight="bold"`)
			}
			if row[from].faint {
				out.WriteString(` opacity=".6"`)
			}
			out.WriteByte('>')
			_ = xml.EscapeText(out, kept) // a buffer takes all
			out.WriteString("</text>\n")
		}
		from = to
	}
}

// same tells whether two cells have one style.
func same(a, b cell) bool { return a.colour == b.colour && a.bold == b.bold && a.faint == b.faint }
