package cli

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestFlagsAsBuildx: each flag of buildx' build and bake is there, with its short form and its default, or is told of in
// docs/differences.md.
func TestFlagsAsBuildx(t *testing.T) {
	for _, name := range []string{"BUILDKIT_PROGRESS", "BUILDX_BUILDER", "DOCKER_DEFAULT_PLATFORM"} {
		t.Setenv(name, "")
	}
	list, err := os.ReadFile("testdata/buildx-flags.txt")
	if err != nil {
		t.Fatal(err)
	}
	differences, err := os.ReadFile("../../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	root := Commands()
	for line := range strings.Lines(string(list)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		all := strings.Fields(line)
		if len(all) != 4 {
			t.Fatalf("%q has %d fields, want 4", line, len(all))
		}
		name := all[1]
		for _, path := range [][]string{{all[0]}, {"buildx", all[0]}} {
			cmd, _, err := root.Find(path)
			if err != nil {
				t.Fatal(err)
			}
			flag := cmd.Flag(name)
			if flag != nil && orDash(flag.Shorthand) == all[2] && orDash(flag.DefValue) == all[3] {
				continue
			}
			if !strings.Contains(string(differences), "`--"+name+"`") {
				t.Errorf("%v --%s is %+v, want it as in buildx (%s, %s), or a row of docs/differences.md", path, name, flag, all[2], all[3])
			}
		}
	}
}

// orDash is "-" for what is nothing.
func orDash(s string) string {
	if slices.Contains([]string{"", "0", "false", "[]"}, s) {
		return "-"
	}
	return s
}

func TestHostList(t *testing.T) {
	got := hostList([]string{"a:1.2.3.4", "b=1.2.3.5,c:[::1]", "d=1.2.3.6,1.2.3.7,[::2]", "e=::3,f:::4"})
	want := []string{"a:1.2.3.4", "b=1.2.3.5", "c:[::1]", "d=1.2.3.6,1.2.3.7,[::2]", "e=::3", "f:::4"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestResources(t *testing.T) {
	attrs := map[string]string{}
	o := limitFlags{memory: "1g", resources: []string{"memory=2g", " memory-swap = -1", "cpu-quota=50000", "cpuset-cpus=0,1"}}
	if err := o.attrs(attrs); err != nil || len(attrs) != 4 || attrs["memory"] != "2147483648" || attrs["memswap"] != "-1" || attrs["cpuquota"] != "50000" || attrs["cpusetcpus"] != "0,1" {
		t.Errorf("got %v, %v", attrs, err)
	}
	for entry, want := range map[string]string{
		"memory": `invalid resource "memory", expected key=value`, "disk=1": `unknown resource "disk"`, "cpu-shares=x": `invalid value "x" for resource cpu-shares`, "memory=x": "--memory x",
	} {
		o := limitFlags{resources: []string{entry}}
		if err := o.attrs(map[string]string{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
}
