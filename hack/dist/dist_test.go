package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/slipway-build/slipway/internal/export"
)

// released is a release, of which the test's own program is the binary.
func released(t *testing.T) (d *dist, binary string) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	copyright := filepath.Join(t.TempDir(), "copyright")
	if err := os.WriteFile(copyright, []byte("of musl\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &dist{version: "1.2.3-rc.1+g0", commit: strings.Repeat("c", 40), date: "2026-01-02T03:04:05Z", libraries: []library{{"musl", "1.2.3-1+b1", "MIT", copyright}}, tools: []string{"pkg:generic/go@1"}}, binary
}

func run(t *testing.T, d *dist, args ...string) []byte {
	t.Helper()
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := d.run(out, args); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("%s is not the same the second time", args[0])
	}
	return first.Bytes()
}

// TestSBOM has SPDX's own library read it, and looks for everything that is linked.
func TestSBOM(t *testing.T) {
	d, binary := released(t)
	doc, err := spdxjson.Read(bytes.NewReader(run(t, d, "sbom", binary)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	ids := map[string]bool{}
	for _, p := range doc.Packages {
		got = append(got, p.PackageName+" "+p.PackageVersion)
		if id := string(p.PackageSPDXIdentifier); ids[id] {
			t.Errorf("two packages are %s", id)
		}
		ids[string(p.PackageSPDXIdentifier)] = true
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"slipway 1.2.3-rc.1+g0", "musl 1.2.3-1+b1", "libdeflate ", "stdlib " + info.GoVersion}
	for _, m := range info.Deps {
		want = append(want, m.Path+" "+m.Version)
	}
	if len(info.Deps) == 0 {
		t.Error("the program notes no modules")
	}
	for _, p := range want {
		if !slices.Contains(got, p) {
			t.Errorf("there is no %s in %q", p, got)
		}
	}
	if len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("there are %d relationships of %d packages", len(doc.Relationships), len(doc.Packages))
	}
	if want := "pkg:deb/debian/musl@1.2.3-1%2Bb1"; !strings.Contains(doc.Packages[len(doc.Packages)-1].PackageExternalReferences[0].Locator, want) {
		t.Errorf("musl is %s, want %s", doc.Packages[len(doc.Packages)-1].PackageExternalReferences[0].Locator, want)
	}
}

func TestProvenance(t *testing.T) {
	d, _ := released(t)
	file := filepath.Join(t.TempDir(), "a.deb")
	if err := os.WriteFile(file, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s export.Statement
	out := run(t, d, "provenance", file, "go.mod")
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Subject) != 2 || s.Subject[0].Name != "a.deb" || s.Subject[0].Digest["sha256"] != "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
		t.Errorf("it is about %v", s.Subject)
	}
	for _, want := range []string{`"gitCommit": "` + d.commit, "https://slsa.dev/provenance/v1", "pkg:generic/go@1"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %s in %s", want, out)
		}
	}
}

// TestLicences looks for some, and that a module without one is an error.
func TestLicences(t *testing.T) {
	d, binary := released(t)
	out := string(run(t, d, "licences", binary))
	for _, want := range []string{"github.com/spdx/tools-golang v", "musl 1.2.3-1+b1", "of musl", "Copyright 2009 The Go Authors", "Eric Biggers"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if err := section(&bytes.Buffer{}, "x", t.TempDir()); err == nil || !strings.Contains(err.Error(), "has no licence") {
		t.Errorf("a module without a licence: %v", err)
	}
}
