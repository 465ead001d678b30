package main

import (
	"debug/buildinfo"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// home is where slipway is developed.
const home = "https://github.com/slipway-build/slipway"

// sbom lists what a binary has linked: what the go command noted in it, and the libraries of C.
func (d *dist) sbom(binary string) (*spdx.Document, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	digest, err := sha256File(binary)
	if err != nil {
		return nil, err
	}
	arch := setting(info, "GOARCH")
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      fmt.Sprintf("slipway %s for linux/%s", d.version, arch),
		DocumentNamespace: fmt.Sprintf("%s/spdx/%s/linux-%s/%s", home, d.version, arch, digest),
		CreationInfo:      &spdx.CreationInfo{Created: d.date, Creators: []common.Creator{{CreatorType: "Tool", Creator: "slipway-" + d.version}}},
	}
	add := func(id, relation string, p spdx.Package, purl *packageurl.PackageURL) {
		p.PackageSPDXIdentifier = common.ElementID(id)
		p.PackageDownloadLocation, p.PackageLicenseConcluded, p.PackageCopyrightText = "NOASSERTION", "NOASSERTION", "NOASSERTION"
		if p.PackageLicenseDeclared == "" {
			p.PackageLicenseDeclared = "NOASSERTION"
		}
		if purl != nil {
			p.PackageExternalReferences = []*spdx.PackageExternalReference{{Category: "PACKAGE-MANAGER", RefType: "purl", Locator: purl.ToString()}}
		}
		of := "slipway"
		if relation == common.TypeRelationshipDescribe {
			of = "DOCUMENT"
		}
		doc.Packages = append(doc.Packages, &p)
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{RefA: common.MakeDocElementID("", of), RefB: common.MakeDocElementID("", id), Relationship: relation})
	}
	add("slipway", common.TypeRelationshipDescribe, spdx.Package{
		PackageName: "slipway", PackageVersion: d.version, PackageFileName: filepath.Base(binary), PrimaryPackagePurpose: "APPLICATION", PackageHomePage: home,
		PackageSourceInfo: "commit " + d.commit, PackageLicenseDeclared: "Apache-2.0",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: digest}},
	}, golang("github.com/slipway-build/slipway", "v"+d.version))
	add("go", common.TypeRelationshipStaticLink, spdx.Package{PackageName: "stdlib", PackageVersion: info.GoVersion, PackageLicenseDeclared: "BSD-3-Clause"},
		golang("stdlib", strings.TrimPrefix(info.GoVersion, "go")))
	for i, m := range info.Deps {
		p := spdx.Package{PackageName: m.Path, PackageVersion: m.Version, PackageComment: m.Sum}
		if m.Replace != nil {
			p.PackageComment = fmt.Sprintf("changed by hack/patches/%s@%s.patch", m.Path, m.Version)
		}
		add(fmt.Sprintf("module-%d", i+1), common.TypeRelationshipStaticLink, p, golang(m.Path, m.Version))
	}
	add("libdeflate", common.TypeRelationshipStaticLink, spdx.Package{PackageName: "libdeflate", PackageLicenseDeclared: "MIT", PackageComment: "parts of it, changed: internal/libdeflate"}, nil)
	for i, l := range d.libraries {
		add(fmt.Sprintf("library-%d", i+1), common.TypeRelationshipStaticLink, spdx.Package{PackageName: l.name, PackageVersion: l.version, PackageLicenseDeclared: l.licence},
			packageurl.NewPackageURL(packageurl.TypeDebian, "debian", l.name, l.version, packageurl.Qualifiers{{Key: "arch", Value: arch}}, ""))
	}
	return doc, nil
}

// golang is the package URL of a module.
func golang(module, version string) *packageurl.PackageURL {
	dir, name := "", module
	if i := strings.LastIndexByte(module, '/'); i >= 0 {
		dir, name = module[:i], module[i+1:]
	}
	return packageurl.NewPackageURL(packageurl.TypeGolang, dir, name, version, nil, "")
}

// setting is one of those that the go command noted.
func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
