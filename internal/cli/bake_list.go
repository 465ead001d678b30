package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/bake"
)

// bakeList is a value of --list.
type bakeList struct{ kind, format string }

// parseList reads "targets", or "type=targets,format=json", as buildx does.
func parseList(value string) (l bakeList, err error) {
	if value == "" {
		return l, nil
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return l, err
	}
	if len(fields) == 1 && fields[0] == value && !strings.HasPrefix(value, "type=") {
		l.kind, fields = value, nil
	}
	for _, field := range fields {
		key, v, ok := strings.Cut(field, "=")
		if !ok {
			return l, fmt.Errorf("invalid value %s", field)
		}
		switch key = strings.TrimSpace(strings.ToLower(key)); key {
		case "type":
			l.kind = v
		case "format":
			l.format = v
		default:
			return l, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if l.format == "" {
		l.format = "table"
	}
	if l.kind != "targets" && l.kind != "variables" {
		return l, fmt.Errorf("invalid list type %q", l.kind)
	}
	if l.format != "table" && l.format != "json" {
		return l, fmt.Errorf("invalid list format %q", l.format)
	}
	return l, nil
}

// print shows what a definition has, as buildx does.
func (l bakeList) print(w io.Writer, cfg *bake.Config, vars []*bake.Variable) error {
	if l.kind == "targets" {
		return l.printTargets(w, cfg)
	}
	slices.SortFunc(vars, func(a, b *bake.Variable) int { return cmp.Compare(a.Name, b.Name) })
	if l.format == "json" {
		return printIndented(w, vars)
	}
	tw := newBakeTable(w, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION")
	for _, v := range vars {
		value := "<null>"
		if v.Value != nil {
			value = *v.Value
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", v.Name, v.Type, value, v.Description)
	}
	return tw.Flush()
}

// listedTarget is a line of --list=targets.
type listedTarget struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Group       bool   `json:"group,omitempty"`
}

func (l bakeList) printTargets(w io.Writer, cfg *bake.Config) error {
	var all []listedTarget
	for _, t := range cfg.Targets {
		all = append(all, listedTarget{Name: t.Name, Description: t.Description})
	}
	for _, g := range cfg.Groups {
		line := listedTarget{Name: g.Name, Description: g.Description, Group: true}
		if names := strings.Join(slices.Sorted(slices.Values(g.Targets)), ", "); line.Description != "" && names != "" {
			line.Description += " (" + names + ")"
		} else if names != "" {
			line.Description = names
		}
		all = append(all, line)
	}
	// By convention a name with an underscore is private.
	all = slices.DeleteFunc(all, func(t listedTarget) bool { return strings.HasPrefix(t.Name, "_") })
	slices.SortFunc(all, func(a, b listedTarget) int { return cmp.Compare(a.Name, b.Name) })
	if l.format == "json" {
		return printIndented(w, all)
	}
	tw := newBakeTable(w, "TARGET\tDESCRIPTION")
	for _, t := range all {
		fmt.Fprintf(tw, "%s\t%s\n", t.Name, t.Description)
	}
	return tw.Flush()
}

func newBakeTable(w io.Writer, head string) *tabwriter.Writer {
	tw := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	fmt.Fprintln(tw, head)
	return tw
}

func printIndented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
