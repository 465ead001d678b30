package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnit(t *testing.T) {
	for test, want := range map[string]string{
		"TestIntegration":                                                    "",
		"TestIntegration/TestCopy":                                           "",
		"TestIntegration/TestCopy/worker=containerd":                         "",
		"TestIntegration/TestCopy/worker=oci":                                "TestCopy",
		"TestIntegration/TestCopy/worker=oci/frontend=client":                "TestCopy/frontend=client",
		"TestIntegration/TestCopy/worker=oci/frontend=client/some_part=of":   "TestCopy/frontend=client",
		"TestIntegration/TestCopy/worker=oci/frontend=client/a_part/of_it":   "TestCopy/frontend=client",
		"TestIntegration/TestNet/worker=oci/frontend=client/network.host=on": "TestNet/frontend=client/network.host=on",
	} {
		if got := unit(test); want == "" && got != "" || want != "" && short(got) != want {
			t.Errorf("unit(%s) is %s, want %s", test, got, want)
		}
	}
}

// TestCompare has one test of each kind of difference.
func TestCompare(t *testing.T) {
	all := results{}
	for test, action := range map[string]string{"Passes": "pass", "Fails": "fail", "Mended": "pass", "Lacks": "skip", "Hangs": ""} {
		all["TestIntegration/"+test+"/worker=oci"] = &result{action: action}
	}
	file := filepath.Join(t.TempDir(), "list")
	known := list{"Mended": "a reason", "Lacks": machine + "no network", "Gone": "another", "Fails": "differs"}
	if err := known.write(file); err != nil {
		t.Fatal(err)
	}
	known, err := readList(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if all.compare(&out, known, true) {
		t.Error("differences are none")
	}
	for _, want := range []string{"PASSES, and is listed: Mended\n", "DOES NOT PASS (): Hangs\n", "IS NOT THERE, and is listed: Gone\n", "2 of 4 tests passed, 50.0 %; 1 more"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
	for _, not := range []string{"Passes", "Fails\n", "Lacks"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q is in:\n%s", not, &out)
		}
	}
	delete(known, "Mended")
	delete(known, "Gone")
	known["Hangs"] = "hangs"
	if !all.compare(&out, known, true) {
		t.Errorf("what is as listed is a difference:\n%s", &out)
	}
}

// What a test itself says is shown, and not its daemon's log.
func TestOwnOutput(t *testing.T) {
	r := &result{}
	r.output.WriteString("=== RUN   TestIntegration/TestCopy/worker=oci\n    client_test.go:4: missing fixtures\n    sandbox.go:205: a line of the log\n--- SKIP: TestIntegration/TestCopy/worker=oci (0.63s)\n")
	if got := r.reason(); got != "client_test.go:4: missing fixtures" {
		t.Errorf("the reason is %q", got)
	}
	if got := r.own(); strings.Contains(got, "log") || !strings.Contains(got, "missing fixtures") {
		t.Errorf("shown is %q", got)
	}
}

func TestListHasReasons(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list")
	for _, text := range []string{"TestCopy\n", "TestCopy\t\n", "TestCopy\ta\nTestCopy\tb\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readList(file); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
