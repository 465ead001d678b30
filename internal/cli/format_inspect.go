package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/template"

	"github.com/docker/cli/templates"
)

// inspectFormatHelp is Docker's text for --format of commands that inspect.
const inspectFormatHelp = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`

// inspector prints what `inspect` found as Docker's does: all objects as a JSON array, or each by a template.
type inspector struct {
	format string
	tmpl   *template.Template // nil for JSON
	found  []json.RawMessage
	out    bytes.Buffer // what the template gave so far
}

// newInspector parses --format: a template, "json", or "" for indented JSON. An error has Docker's exit code 64.
func newInspector(format string) (*inspector, error) {
	i := &inspector{format: format}
	if format == "" || format == "json" {
		return i, nil
	}
	var err error
	if i.tmpl, err = templates.Parse(format); err != nil {
		return nil, &codeError{64, fmt.Errorf("template parsing error: %w", err)}
	}
	return i, nil
}

// add takes an object. A template sees its Go fields; where it has none of the wanted name, the
// template is tried on the names of its JSON, and what is not there either is an error.
func (i *inspector) add(object any) error {
	raw, err := marshalPlain(object)
	if err != nil {
		return err
	}
	if i.tmpl == nil {
		i.found = append(i.found, raw)
		return nil
	}
	var buf bytes.Buffer
	if i.tmpl.Execute(&buf, object) != nil {
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			return err
		}
		buf.Reset()
		strict, err := i.tmpl.Clone()
		if err != nil {
			return err
		}
		if err := strict.Option("missingkey=error").Execute(&buf, v); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
	}
	fmt.Fprintln(&i.out, buf.String())
	return nil
}

// flush prints everything that was added. Without any object it is an empty array, or an empty line.
func (i *inspector) flush(w io.Writer) error {
	if i.tmpl != nil {
		if i.out.Len() == 0 {
			i.out.WriteByte('\n')
		}
		_, err := i.out.WriteTo(w)
		return err
	}
	var buf bytes.Buffer
	if len(i.found) == 0 {
		i.found = []json.RawMessage{}
	}
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if i.format == "" {
		enc.SetIndent("", "    ")
	}
	if err := enc.Encode(i.found); err != nil {
		return err
	}
	_, err := buf.WriteTo(w)
	return err
}

// inspectAll prints the objects that have the names, in order; what is not found, or has not what the
// template wants, is an error after the others were printed.
func inspectAll(w io.Writer, format string, names []string, find func(name string) (any, error)) error {
	i, err := newInspector(format)
	if err != nil {
		return err
	}
	var all error
	for _, name := range names {
		object, err := find(name)
		if err == nil {
			err = i.add(object)
		}
		all = errors.Join(all, err)
	}
	return errors.Join(i.flush(w), all)
}

// marshalPlain is JSON as Docker's API gives it, without <, > and & escaped.
func marshalPlain(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(buf.Bytes()), err
}
