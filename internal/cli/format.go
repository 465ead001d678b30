package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/templates"
	"github.com/docker/go-units"
	"github.com/mattn/go-isatty"
)

// formatHelp is Docker's text for --format of commands that list.
const formatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`

// headers are the titles of a list's columns, by the names of the fields that templates know.
type headers map[string]string

// Label is the title of the column {{.Label "name"}}.
func (headers) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// listFormat chooses the format of a list as Docker's formatter does: that of --format, IDs alone with
// --quiet, otherwise def, which starts with "table ".
func listFormat(format string, quiet bool, def string) string {
	if format != "" && format != "table" {
		return format
	}
	if quiet {
		return "{{.ID}}"
	}
	return def
}

// printList prints rows in the shape of Docker's formatter: by a Go template, as a table with
// headers when the format starts with "table", or by "json" as an object a line.
//
// A row is a pointer to a struct whose methods without arguments are the fields, so that only what
// the template names is worked out; its MarshalJSON is [marshalRow]. A field that no row has is an error.
func printList(w io.Writer, format string, heads headers, rows []any) error {
	format, isTable := strings.CutPrefix(format, "table")
	if format == "json" && !isTable {
		format = "{{json .}}"
	}
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(format, " "))
	tmpl, err := templates.Parse(format)
	if err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	var buf bytes.Buffer
	for _, row := range rows {
		if err := tmpl.Execute(&buf, row); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		buf.WriteByte('\n')
	}
	if !isTable {
		_, err := buf.WriteTo(w)
		return err
	}
	var out bytes.Buffer
	tw := tabwriter.NewWriter(&out, 10, 1, 3, ' ', 0)
	if err := tmpl.Funcs(templates.HeaderFunctions).Execute(tw, heads); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	fmt.Fprintln(tw)
	if _, err := buf.WriteTo(tw); err != nil {
		return err
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err = out.WriteTo(w)
	return err
}

// marshalRow is the JSON of a row of [printList]: the values of the methods that have no argument and
// one result.
func marshalRow(row any) ([]byte, error) {
	v, fields := reflect.ValueOf(row), map[string]any{}
	for i := range v.NumMethod() {
		m := v.Method(i)
		if t := m.Type(); t.NumIn() == 0 && t.NumOut() == 1 {
			fields[v.Type().Method(i).Name] = m.Call(nil)[0].Interface()
		}
	}
	return json.Marshal(fields)
}

// ago is how long ago something was, in Docker's words.
func ago(t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// size is a number of bytes as Docker prints it.
func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// longSize is a number of bytes as Docker's and buildx' commands about the use of the disk print it.
func longSize(n int64) string { return units.HumanSize(float64(n)) }

// timestamp is a time as Docker's lists print it in full.
func timestamp(t time.Time) string { return t.Local().Truncate(time.Second).String() }

// ellipsis cuts a text that is longer than n characters, the last of which is then "…".
func ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

func isTTY(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }
