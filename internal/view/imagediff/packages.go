package imagediff

import (
	"bufio"
	"cmp"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-build/slipway/internal/layer"
)

// Package is one that the images do not have in the same version.
type Package struct {
	Manager string `json:"manager"` // "dpkg", "apk" or "rpm"
	Name    string `json:"name"`
	Arch    string `json:"architecture,omitempty"`
	A       string `json:"a,omitempty"` // version; "" is not installed
	B       string `json:"b,omitempty"`
	Bytes   int64  `json:"bytes"` // by how much more it takes in B, as the database has it
}

type packageKey struct{ manager, name, arch string }

type installed struct {
	version string
	size    int64
}

const (
	maxPackages = 1 << 17  // of one image
	maxLine     = 64 << 10 // of a database; longer ones, as of descriptions, are cut
)

// packagesOf reads the databases of packages, and names those that are damaged.
func packagesOf(t layer.Tree) (all map[packageKey]installed, unread []string, err error) {
	all = map[packageKey]installed{}
	for _, db := range []struct {
		manager, file string
	}{{"dpkg", "var/lib/dpkg/status"}, {"apk", "lib/apk/db/installed"}, {"apk", "usr/lib/apk/db/installed"}} {
		if err := readDatabase(t, db.manager, db.file, all); err != nil {
			return nil, nil, err
		}
	}
	const parts = "var/lib/dpkg/status.d" // of images without dpkg itself, a file for each package
	entries, err := t.ReadDir(parts)
	if err != nil && !isMissing(err) {
		return nil, nil, err
	}
	for _, e := range entries {
		if e.IsRegular() && path.Ext(e.Path) != ".md5sums" {
			if err := readDatabase(t, "dpkg", e.Path, all); err != nil {
				return nil, nil, err
			}
		}
	}
	unread, err = rpmPackages(t, all)
	return all, unread, err
}

// readDatabase reads the packages of one file, if it is there.
func readDatabase(t layer.Tree, manager, name string, all map[packageKey]installed) error {
	r, err := layer.Open(t, name)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	fields := dpkgFields
	if manager == "apk" {
		fields = apkFields
	}
	return paragraphs(r, func(p map[string]string) {
		version, size, ok := fields(p)
		if name := cmp.Or(p["Package"], p["P"]); ok && name != "" && len(all) < maxPackages {
			all[packageKey{manager, name, cmp.Or(p["Architecture"], p["A"])}] = installed{version, size}
		}
	})
}

func dpkgFields(p map[string]string) (version string, size int64, ok bool) {
	size, _ = strconv.ParseInt(p["Installed-Size"], 10, 64)
	status, has := p["Status"]
	return p["Version"], min(max(size, 0), 1<<50) << 10, !has || strings.HasSuffix(status, " installed")
}

func apkFields(p map[string]string) (version string, size int64, ok bool) {
	size, _ = strconv.ParseInt(p["I"], 10, 64)
	return p["V"], max(size, 0), true
}

// paragraphs tells fn the fields "Name: value" of each paragraph, without what goes on in further lines. Of apk's database, whose
// lines "F:" and "R:" come many times, the first of each counts.
func paragraphs(r io.Reader, fn func(map[string]string)) error {
	lines, fields := bufio.NewReaderSize(r, maxLine), map[string]string{}
	for {
		line, whole, err := lines.ReadLine()
		for more := whole; more && err == nil; {
			_, more, err = lines.ReadLine()
		}
		text := string(line)
		if text == "" && len(fields) > 0 {
			fn(fields)
			fields = map[string]string{}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name, value, ok := strings.Cut(text, ":")
		if _, had := fields[name]; ok && !had && len(fields) < 100 && !strings.HasPrefix(text, " ") {
			fields[name] = strings.Clone(strings.TrimSpace(value))
		}
	}
}

// comparePackages tells which packages differ, in the order of their names.
func comparePackages(a, b map[packageKey]installed) (out []Package) {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y packageKey) int {
		return cmp.Or(cmp.Compare(x.manager, y.manager), cmp.Compare(x.name, y.name), cmp.Compare(x.arch, y.arch))
	})
	for _, k := range keys {
		if a[k].version != b[k].version {
			out = append(out, Package{k.manager, k.name, k.arch, a[k].version, b[k].version, b[k].size - a[k].size})
		}
	}
	return out
}
