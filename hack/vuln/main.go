// Vuln runs govulncheck and judges what it finds: each known vulnerability whose code slipway can reach is
// either gone or explained in exceptions.txt, and each exception is still needed.
//
//	go run ./hack/vuln EXCEPTIONS COMMAND [ARG...]
//
// COMMAND is govulncheck with -format json. Where its database cannot be reached, nothing is checked and a line
// says so; with CI or GOVULNDB in the environment (`make vuln` takes the database from there) it is a failure.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: vuln EXCEPTIONS COMMAND [ARG...]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vuln:", err)
		os.Exit(1)
	}
}

func run(file string, command []string, out io.Writer) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	exceptions, err := parseExceptions(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var said bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = &said
	report, err := cmd.Output()
	if words := strings.TrimSpace(said.String()); err != nil && strings.Contains(words, "fetching vulnerabilities") && !required() {
		fmt.Fprintf(out, "vuln: NOTHING WAS CHECKED: the database of vulnerabilities cannot be reached (GOVULNDB names a copy): %s\n", words)
		return nil
	} else if err != nil {
		return fmt.Errorf("running govulncheck: %w: %s", err, words)
	}
	found, err := parseReport(bytes.NewReader(report))
	if err != nil {
		return err
	}
	return judge(found, exceptions, file, out)
}

// required tells whether a check that cannot be done is a failure.
func required() bool { return os.Getenv("CI") != "" || os.Getenv("GOVULNDB") != "" }

// parseExceptions reads lines "ID reason"; the reason is needed. # begins a comment.
func parseExceptions(text string) (map[string]string, error) {
	exceptions := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		id, reason, _ := strings.Cut(line, " ")
		if reason = strings.TrimSpace(reason); reason == "" {
			return nil, fmt.Errorf("%s has no reason", id)
		}
		exceptions[id] = reason
	}
	return exceptions, nil
}

// parseReport returns, by ID, what is called of each vulnerability that govulncheck can trace from slipway's
// code. Those that are only in a module or a package whose vulnerable code nothing calls are not among them.
func parseReport(r io.Reader) (map[string]string, error) {
	type frame struct{ Module, Version, Package, Function, Receiver string }
	found, complete := map[string]string{}, false
	for dec := json.NewDecoder(r); ; {
		var m struct {
			Config  *struct{}
			Finding *struct {
				OSV          string `json:"osv"`
				FixedVersion string `json:"fixed_version"`
				Trace        []frame
			}
		}
		if err := dec.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading govulncheck's report: %w", err)
		}
		complete = complete || m.Config != nil
		if m.Finding == nil || len(m.Finding.Trace) == 0 || m.Finding.Trace[0].Function == "" {
			continue
		}
		f := m.Finding.Trace[0]
		found[m.Finding.OSV] = fmt.Sprintf("%s@%s: %s is called (fixed in: %s)", f.Module, f.Version,
			strings.Join(slices.DeleteFunc([]string{f.Package, f.Receiver, f.Function}, func(s string) bool { return s == "" }), "."), m.Finding.FixedVersion)
	}
	if !complete {
		return nil, errors.New("reading govulncheck's report: it is empty")
	}
	return found, nil
}

func judge(found, exceptions map[string]string, file string, out io.Writer) error {
	wrong := 0
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if reason, ok := exceptions[id]; ok {
			fmt.Fprintf(out, "%s: %s: accepted: %s\n", id, found[id], reason)
			continue
		}
		fmt.Fprintf(out, "%s: %s: https://pkg.go.dev/vuln/%s\n", id, found[id], id)
		wrong++
	}
	for _, id := range slices.Sorted(maps.Keys(exceptions)) {
		if _, ok := found[id]; !ok {
			fmt.Fprintf(out, "%s: is not found any more: remove it from %s\n", id, file)
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d to be mended, or explained in %s", wrong, file)
	}
	fmt.Fprintf(out, "vuln: nothing that is called is known to be vulnerable, %d accepted\n", len(found))
	return nil
}
