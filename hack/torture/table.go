package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
)

// doneRows are what was done, how often, and what was lost.
func doneRows(outcomes []outcome) [][]string {
	rows := [][]string{{"kind", "what was done", "rounds", "how often", "lost", "rounds took"}}
	for _, o := range outcomes {
		if o.skipped != nil {
			rows = append(rows, []string{o.kind.name, o.kind.done, "0", "left out: " + o.skipped.Error(), "-", "-"})
			continue
		}
		lost := "nothing"
		if n := len(o.failures); n > 0 {
			lost = fmt.Sprintf("%d rounds failed", n)
		}
		rows = append(rows, []string{o.kind.name, o.kind.done, fmt.Sprint(o.rounds), fmt.Sprintf("%d %s", o.count, o.kind.what), lost, fmt.Sprintf("%.0f s", o.took.Seconds())})
	}
	return rows
}

// plantedRows are the defects that were planted, and whether they were found.
func plantedRows(findings []planting) [][]string {
	rows := [][]string{{"planted", "what it does", "rounds", "kind", "found", "took"}}
	for _, f := range findings {
		found := "found"
		if f.err != nil {
			found = "not found"
		}
		rows = append(rows, []string{f.name, f.what, fmt.Sprint(f.rounds), f.kind, found, fmt.Sprintf("%.0f s", f.took.Seconds())})
	}
	return rows
}

// table is a table for a terminal, or of markdown.
func table(rows [][]string, markdown bool) string {
	if markdown {
		var b strings.Builder
		for i, row := range rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				b.WriteString("| --- | --- | --: | --: | --- | --: |\n")
			}
		}
		return b.String()
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		row = append(append([]string{}, row[0]), row[2:]...) // what was done is too long for a terminal
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	return b.String()
}

// The tables of docs/reliability.md. Each stands between its comment and the end.
const (
	doneTable    = "<!-- make torture writes this table -->\n"
	plantedTable = "<!-- make torture writes this table of planted defects -->\n"
	tableEnd     = "<!-- end of the table -->\n"
)

// writeTable puts a table into a file.
func writeTable(file, tableBegin, text string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for a table: %q and %q", file, strings.TrimSpace(tableBegin), strings.TrimSpace(tableEnd))
	}
	return os.WriteFile(file, []byte(before+tableBegin+text+tableEnd+after), 0o644)
}
