package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/docker/go-units"
	"github.com/mattn/go-isatty"
)

// column is one column of a table and of the fields that --format knows.
type column struct{ field, header string }

// table prints rows in Docker's shape: as a table of the shown columns, or by a format: a Go
// template, "table TEMPLATE", "json", or "table". Rows are maps from field to text.
type table struct {
	columns []column // shown by default, in order
	more    []column // known to --format as well
	format  string
}

func (t *table) print(w io.Writer, rows []map[string]string) error {
	format := t.format
	if format == "json" {
		format = "{{json .}}"
	}
	if format == "" || format == "table" {
		var fields []string
		for _, c := range t.columns {
			fields = append(fields, "{{."+c.field+"}}")
		}
		format = "table " + strings.Join(fields, "\t")
	}
	format, isTable := strings.CutPrefix(format, "table ")
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	tmpl, err := template.New("").Option("missingkey=error").Funcs(templateFuncs).Parse(format)
	if err != nil {
		return fmt.Errorf("parsing --format: %w", err)
	}
	var buf bytes.Buffer
	var tw io.Writer = &buf
	if isTable {
		tw = tabwriter.NewWriter(&buf, 10, 1, 3, ' ', 0)
		head := map[string]string{}
		for _, c := range append(t.columns[:len(t.columns):len(t.columns)], t.more...) {
			head[c.field] = c.header
		}
		rows = append([]map[string]string{head}, rows...)
	}
	for _, row := range rows {
		if err := tmpl.Execute(tw, row); err != nil {
			return fmt.Errorf("using --format: %w", err)
		}
		fmt.Fprintln(tw)
	}
	if f, ok := tw.(*tabwriter.Writer); ok {
		if err := f.Flush(); err != nil {
			return err
		}
	}
	_, err = w.Write(buf.Bytes())
	return err
}

// templateFuncs are the functions that Docker's templates have.
var templateFuncs = template.FuncMap{
	"json": func(v any) (string, error) {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		err := enc.Encode(v)
		return strings.TrimSpace(buf.String()), err
	},
	"join":  joinAny,
	"split": strings.Split,
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"title": func(s string) string {
		if s == "" {
			return s
		}
		return strings.ToUpper(s[:1]) + s[1:]
	},
	"println": fmt.Sprintln,
}

// joinAny joins a list of strings, also one that came out of JSON.
func joinAny(list any, sep string) (string, error) {
	switch l := list.(type) {
	case nil:
		return "", nil
	case []string:
		return strings.Join(l, sep), nil
	case []any:
		words := make([]string, len(l))
		for i, v := range l {
			words[i] = fmt.Sprint(v)
		}
		return strings.Join(words, sep), nil
	}
	return "", fmt.Errorf("joining: %T is not a list", list)
}

// printInspected prints objects as Docker's inspect does: as a JSON array, or each by a template
// that sees the fields by their JSON names.
func printInspected(w io.Writer, format string, objects []any) error {
	if format == "" || format == "json" {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if format == "" {
			enc.SetIndent("", "    ")
		}
		if err := enc.Encode(objects); err != nil {
			return err
		}
		_, err := w.Write(buf.Bytes())
		return err
	}
	tmpl, err := template.New("").Funcs(templateFuncs).Parse(format)
	if err != nil {
		return fmt.Errorf("parsing --format: %w", err)
	}
	for _, o := range objects {
		var buf bytes.Buffer
		if err := tmpl.Execute(&buf, o); err != nil {
			return fmt.Errorf("using --format: %w", err)
		}
		if _, err := fmt.Fprintln(w, buf.String()); err != nil {
			return err
		}
	}
	return nil
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

// shortID is the first 12 digits of an ID or digest.
func shortID(id string) string {
	id = id[strings.IndexByte(id, ':')+1:]
	return id[:min(12, len(id))]
}

func isTTY(f *os.File) bool { return isatty.IsTerminal(f.Fd()) }
