package imagediff

import (
	"fmt"
	"strings"
	"testing"
)

func TestParagraphs(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	text := "Package: a\nVersion: 1\nDescription: " + long + "\n more: of it\n\n\nPackage: b\nStatus: deinstall ok config-files\nVersion:2\nPackage: c"
	var got []string
	err := paragraphs(strings.NewReader(text), func(p map[string]string) {
		got = append(got, fmt.Sprint(p["Package"], " ", p["Version"], " ", len(p)))
	})
	if want := "[a 1 3 b 2 3]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	if _, _, ok := dpkgFields(map[string]string{"Status": "deinstall ok config-files"}); ok {
		t.Error("a package that was removed is there")
	}
}

func TestComparePackages(t *testing.T) {
	key := func(name string) packageKey { return packageKey{"dpkg", name, "amd64"} }
	a := map[packageKey]installed{key("same"): {"1", 5}, key("gone"): {"1", 7}, key("new"): {"1", 10}}
	b := map[packageKey]installed{key("same"): {"1", 5}, key("came"): {"3", 2}, key("new"): {"2", 30}}
	if got, want := fmt.Sprint(comparePackages(a, b)), "[{dpkg came amd64  3 2} {dpkg gone amd64 1  -7} {dpkg new amd64 1 2 20}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
