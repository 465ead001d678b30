package main

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUnit(t *testing.T) {
	for test, want := range map[string]string{
		"TestIntegration":                                                    "",
		"TestIntegration/TestCopy":                                           "",
		"TestIntegration/TestCopy/worker=containerd":                         "",
		"TestIntegration/TestCopy/worker=oci":                                "TestCopy",
		"TestIntegration/slice=1-8/TestCopy/worker=oci/part":                 "TestCopy",
		"TestIntegration/TestCopy/worker=oci/frontend=client":                "TestCopy/frontend=client",
		"TestIntegration/TestCopy/worker=oci/frontend=client/part=of":        "TestCopy/frontend=client",
		"TestIntegration/TestCopy/worker=oci/frontend=client/a_part/of_it":   "TestCopy/frontend=client",
		"TestIntegration/TestNet/worker=oci/frontend=client/network.host=on": "TestNet/frontend=client/network.host=on",
	} {
		got, name := unit(test)
		if want == "" && got != "" || want != "" && (short(got) != want || !strings.HasPrefix(test, name)) {
			t.Errorf("unit(%s) is %s of %s, want %s", test, got, name, want)
		}
	}
}

func made(actions map[string]string) results {
	all := results{}
	for test, action := range actions {
		name, variant, _ := strings.Cut(test, "/")
		if variant != "" {
			variant = "/" + variant
		}
		all["TestIntegration/"+name+"/worker=oci"+variant] = &result{action: action}
	}
	return all
}

// TestCompare has one test of each kind of difference.
func TestCompare(t *testing.T) {
	all := made(map[string]string{"Passes": "pass", "Fails": "fail", "Mended": "pass", "Lacks": "skip", "Hangs": "hang", "Other": "skip", "Runs": "fail", "Half": "fail", "Both/frontend=client": "fail", "Both/frontend=builtin": "fail"})
	file := filepath.Join(t.TempDir(), "list")
	known := list{"Mended": "a reason", "Lacks": lacks + "no network", "Gone": "another", "Fails": "differs", "Both": "differs", "Other": itself + "not for Linux", "Runs": itself + "not for Linux", "Half": lacks + "no network"}
	if err := known.write(file); err != nil {
		t.Fatal(err)
	}
	known, err := readList(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if all.compare(&out, known, true, 50) {
		t.Error("differences are none")
	}
	for _, want := range []string{"PASSES, and is listed: Mended\n", "DOES NOT PASS (hang): Hangs\n", "IS NOT THERE, and is listed: Gone\n", "DOES NOT SKIP ITSELF (fail): Runs\n", "DOES NOT SKIP ITSELF (fail): Half\n", "2 of 6 tests pass, 33.3 % (the goal is 50 %); 2 more"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &out)
		}
	}
	for _, not := range []string{"Passes", "Fails\n", "Lacks", "Both", "Other"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q is in:\n%s", not, &out)
		}
	}
	delete(known, "Mended")
	delete(known, "Gone")
	known["Hangs"], known["Runs"], known["Half"] = "hangs", "fails", "fails"
	if !all.compare(&out, known, true, 0) {
		t.Errorf("what is as listed is a difference:\n%s", &out)
	}
}

// A list that is recorded keeps what is known of the tests, and of others when it was a part that ran; variants are one line where they can be.
func TestRecord(t *testing.T) {
	all := made(map[string]string{"Passes": "pass", "Mended": "pass", "Fails": "fail", "Lacks": "skip", "Both/frontend=client": "fail", "Both/frontend=builtin": "fail",
		"One/frontend=client": "fail", "One/frontend=builtin": "pass"})
	all["TestIntegration/Lacks/worker=oci"].output.WriteString("    client_test.go:4: no fixtures\n")
	known := list{"Mended": "a reason", "Fails": "differs", "Other": "another"}
	want := list{"Fails": "differs", "Lacks": machine + "skipped: client_test.go:4: no fixtures", "Both": machine + unknown, "One/frontend=client": machine + unknown}
	if got := all.list(known, true, true); !maps.Equal(got, want) {
		t.Errorf("the list is %v, want %v", got, want)
	}
	want["Other"] = "another"
	if got := all.list(known, false, true); !maps.Equal(got, want) {
		t.Errorf("the list of a part is %v, want %v", got, want)
	}
}

// What a test itself says is shown, and not its daemon's log.
func TestOwnOutput(t *testing.T) {
	r := &result{action: "skip"}
	r.output.WriteString("=== RUN   TestIntegration/TestCopy/worker=oci\n    client_test.go:4: missing fixtures\n    sandbox.go:205: a line of the log\n--- SKIP: TestIntegration/TestCopy/worker=oci (0.63s)\n")
	if got := r.reason(); got != "skipped: client_test.go:4: missing fixtures" {
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

// A test that takes too long is a failure of its own; one that ran beside it has another turn.
func TestHang(t *testing.T) {
	all := results{}
	for _, e := range []event{
		{Action: "run", Test: "TestIntegration/Hangs/worker=oci"}, {Action: "run", Test: "TestIntegration/Waits/worker=oci"}, {Action: "pause", Test: "TestIntegration/Waits/worker=oci"},
		{Action: "run", Test: "TestIntegration/Beside/worker=oci"},
	} {
		all.take(e, io.Discard)
	}
	hangs := all["TestIntegration/Hangs/worker=oci"]
	hangs.since = hangs.since.Add(-time.Hour)
	if !all.overdue(time.Minute) {
		t.Fatal("nothing is overdue")
	}
	all.take(event{Action: "fail", Test: "TestIntegration/Beside/worker=oci"}, io.Discard)
	all.giveUp(time.Minute, io.Discard)
	all.take(event{Action: "pass", Test: "TestIntegration/Hangs/worker=oci"}, io.Discard)
	for name, want := range map[string]string{"Hangs": "hang", "Waits": "", "Beside": ""} {
		if got := all["TestIntegration/"+name+"/worker=oci"].action; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if all.overdue(time.Minute) {
		t.Error("what was given up is overdue")
	}
}

// What was started is found by who started it, also behind a process that ended.
func TestEnd(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) //nolint:errcheck // so it was before
	// The shell tells when it has started the one that outlives it.
	out, err := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started").Output()
	if err != nil || string(out) != "started\n" {
		t.Fatal(string(out), err)
	}
	found := func() (n int) {
		for _, p := range descendants() {
			if !p.zombie {
				n++
			}
		}
		return n
	}
	if n := found(); n != 1 {
		t.Fatalf("%d processes are left, want the orphan", n)
	}
	end(0)
	if n := len(descendants()); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}
