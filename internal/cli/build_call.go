package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/spf13/cobra"
	csvvalue "github.com/tonistiigi/go-csvvalue"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/outbound"
)

// callMethod is a value of --call: what is asked of the Dockerfile instead of a build.
type callMethod struct {
	name         string // "" is a build
	json         bool
	ignoreStatus bool
}

// addCallFlags adds --call and --check, its short form.
func addCallFlags(cmd *cobra.Command, opts *buildFlags) {
	f := cmd.Flags()
	f.StringVar(&opts.call, "call", "build", `Set method for evaluating build ("build", "check", "outline", "targets"; ",format=json" for a program)`)
	call := opts.call
	f.StringVar(&opts.call, "print", "", "Accepted for older buildx' sake: see --call")
	f.Lookup("print").Hidden, opts.call = true, call
	f.BoolFunc("check", `Shorthand for "--call=check"`, func(v string) error {
		on, err := strconv.ParseBool(v)
		if err == nil && on {
			opts.call = "check"
		}
		return err
	})
}

// parseCall reads the value of --call as buildx does: NAME[,format=json][,ignorestatus=BOOL].
func parseCall(value string) (callMethod, error) {
	var m callMethod
	if value == "" {
		return m, nil
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return m, fmt.Errorf("--call: %w", err)
	}
	for _, field := range fields {
		key, v, isOption := strings.Cut(field, "=")
		switch {
		case isOption && key == "format":
			m.json = v == "json"
		case isOption && key == "ignorestatus":
			if m.ignoreStatus, err = strconv.ParseBool(v); err != nil {
				return m, fmt.Errorf("--call: invalid ignorestatus print value: %s", v)
			}
		case isOption:
			return m, fmt.Errorf("--call: invalid print field: %s", field)
		case m.name != "":
			return m, fmt.Errorf("--call: invalid print value: %s", value)
		default:
			m.name = field
		}
	}
	switch m.name {
	case "build":
		m.name = ""
	case "check":
		m.name = "lint"
	}
	return m, nil
}

// request is the frontend's name of the method; "" is a build.
func (m callMethod) request() string {
	if m.name == "" {
		return ""
	}
	return "frontend." + m.name
}

// print shows what the frontend answered, as buildx does, on standard output. A check of a
// Dockerfile that cannot be built ends in an error; so does an answer that asks for an exit code.
// It has the Dockerfile's lines, but no passwords of URLs.
func (m callMethod) print(w io.Writer, answer build.Answer) error {
	var text bytes.Buffer
	err := m.printTo(&text, answer)
	if _, werr := io.WriteString(w, outbound.Redact(text.String())); err == nil {
		err = werr
	}
	return err
}

func (m callMethod) printTo(w io.Writer, answer build.Answer) error {
	var err error
	data := answer["result.json"]
	switch req := m.request(); {
	case req == lint.RequestLint:
		err = m.printLint(w, data)
	case m.json:
		_, err = fmt.Fprintln(w, string(data))
	case req == outline.RequestSubrequestsOutline:
		err = outline.PrintOutline(data, w)
	case req == targets.RequestTargets:
		err = targets.PrintTargets(data, w)
	case req == subrequests.RequestSubrequestsDescribe:
		err = subrequests.PrintDescribe(data, w)
	default:
		_, err = w.Write(answer["result.txt"])
	}
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(string(answer["result.statuscode"])); err == nil && n != 0 && !m.ignoreStatus {
		return &codeError{code: n}
	}
	return nil
}

// printLint prints the findings of a check with how many there are.
func (m callMethod) printLint(w io.Writer, data []byte) error {
	var res lint.LintResults
	if err := json.Unmarshal(data, &res); err != nil {
		return fmt.Errorf("reading the checks' result: %w", err)
	}
	n := len(res.Warnings)
	switch {
	case m.json:
		fmt.Fprintln(w, string(data))
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	}
	if !m.json {
		if err := res.PrintTo(w, nil); err != nil {
			return fmt.Errorf("printing the checks' result: %w", err)
		}
	}
	if res.Error != nil {
		if n > 0 && !m.json {
			fmt.Fprintln(w)
		}
		var text bytes.Buffer
		res.PrintErrorTo(&text, nil)
		return errors.New(strings.TrimRight(text.String(), "\n"))
	}
	if n == 0 && !m.json {
		fmt.Fprintln(w, "Check complete, no warnings found.")
	}
	return nil
}

// collect adds what the frontend answered to an object of JSON, and returns the exit code.
func (m callMethod) collect(to map[string]any, answer build.Answer) (code int) {
	var text bytes.Buffer
	err := m.print(&text, answer)
	var failed *codeError
	switch {
	case errors.As(err, &failed) && failed.err == nil:
		code = failed.code
	case err != nil:
		to["error"] = err.Error()
		code = 1
	}
	var object map[string]*json.RawMessage
	if err := json.Unmarshal(text.Bytes(), &object); err != nil {
		to[m.name] = json.RawMessage(bytes.TrimSpace(text.Bytes()))
		return code
	}
	for k, v := range object {
		to[k] = v
	}
	return code
}
