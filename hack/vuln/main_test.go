package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A report as govulncheck writes it: a vulnerability that is called, with the findings for its module and
// package before, and one that is only in a package.
const report = `{"config":{"protocol_version":"v1.0.0","scanner_name":"govulncheck"}}
{"progress":{"message":"Scanning your code"}}
{"osv":{"id":"GO-2026-0001"}}
{"finding":{"osv":"GO-2026-0001","fixed_version":"v1.2.4","trace":[{"module":"example.com/m","version":"v1.2.3"}]}}
{"finding":{"osv":"GO-2026-0001","fixed_version":"v1.2.4","trace":[{"module":"example.com/m","version":"v1.2.3","package":"example.com/m/p"}]}}
{"finding":{"osv":"GO-2026-0001","fixed_version":"v1.2.4","trace":[{"module":"example.com/m","version":"v1.2.3","package":"example.com/m/p","function":"F","receiver":"*T"},{"module":"x","function":"main"}]}}
{"finding":{"osv":"GO-2026-0002","trace":[{"module":"example.com/n","version":"v1.0.0","package":"example.com/n"}]}}
`

func TestRun(t *testing.T) {
	unreachable := `echo 'govulncheck: fetching vulnerabilities: Get "https://vuln.go.dev/index/modules.json.gz": no such host' >&2; exit 1`
	for name, c := range map[string]struct {
		script, exceptions, ci string
		err, out               string // parts of them; err "" is none
	}{
		"found":                {"printf %s '" + report + "'", "# none\n", "", "1 to be mended", "GO-2026-0001: example.com/m@v1.2.3: example.com/m/p.*T.F is called (fixed in: v1.2.4)"},
		"accepted":             {"printf %s '" + report + "'", "GO-2026-0001 only root calls it\n", "", "", "accepted: only root calls it"},
		"no reason":            {"printf %s '" + report + "'", "GO-2026-0001\n", "", "GO-2026-0001 has no reason", ""},
		"only in a package":    {"printf %s '" + report + "'", "GO-2026-0001 a\nGO-2026-0002 b\n", "", "1 to be mended", "GO-2026-0002: is not found any more"},
		"nothing":              {`echo '{"config":{}}'`, "", "", "", "nothing that is called is known to be vulnerable, 0 accepted"},
		"empty":                {"true", "", "", "it is empty", ""},
		"damaged":              {"echo '{'", "", "", "reading govulncheck's report", ""},
		"unreachable":          {unreachable, "", "", "", "NOTHING WAS CHECKED"},
		"unreachable, with CI": {unreachable, "", "true", "no such host", ""},
		"does not compile":     {"echo 'govulncheck: loading packages' >&2; exit 1", "", "", "loading packages", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", c.ci)
			t.Setenv("GOVULNDB", "")
			file := filepath.Join(t.TempDir(), "exceptions.txt")
			if err := os.WriteFile(file, []byte(c.exceptions), 0o644); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := run(file, []string{"sh", "-c", c.script}, &out)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error is %v, want %q", err, c.err)
			}
			if !strings.Contains(out.String(), c.out) {
				t.Errorf("said %q, want %q", out.String(), c.out)
			}
		})
	}
}
