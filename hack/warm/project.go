// Package warm has small models of the shape of public projects: their Dockerfiles, a change of a source file and one of a dependency. Its test builds
// them warm and cold, and compares the images and what was downloaded (docs/warm.md).
//
// # Structure
//
//	projects/*.txtar   the models
//	project.go         reads and writes one
//	registries.go      servers on loopback that they download from, which write down what they are asked for
//	packages.go        what these have: packages that are made of a project's files
package warm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// Versions are those of each project, in the order in which they are built: each but the first one changes what the one before it has.
var Versions = []string{"first", "source", "dependency"}

// Project is a model. Its txtar file has
//
//	first/NAME, source/NAME, dependency/NAME   files of the context from a version on
//	settings                                   lines of KEY VALUE: see there
//	downloads/VERSION                          what a warm build of a version may download: lines of regular expressions
//	wheels/NAME-VERSION/, ...                  packages that it downloads: see [kinds]
type Project struct {
	Name  string
	files map[string]string
}

// Load reads the projects in a directory, by name.
func Load(dir string) ([]*Project, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var all []*Project
	for _, p := range paths {
		ar, err := txtar.ParseFile(p)
		if err != nil {
			return nil, fmt.Errorf("reading project %s: %w", p, err)
		}
		project := &Project{Name: strings.TrimSuffix(filepath.Base(p), ".txtar"), files: map[string]string{}}
		for _, f := range ar.Files {
			project.files[f.Name] = string(f.Data)
		}
		all = append(all, project)
	}
	return all, nil
}

// Setting gives what the settings have of a key:
//
//	tools    the stage of hack/warm/tools/Dockerfile that it is built on, as the image warm-STAGE; without it, it is built on base images alone
//	short    whether it is built where the test is to be short, "yes"
//	target   a target of the bake file (any number)
//	cache    a directory that steps find warm, and its tool: "/root/.npm of npm" (any number)
//	logs     what a warm build of a version prints: "VERSION TEXT" (any number)
//	runs     the arguments of a command in each image (bake: of the image of each target), and what it prints for a version: "VERSION TEXT" (any number)
func (p *Project) Setting(key string) (all []string) {
	for line := range strings.Lines(p.files["settings"]) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			all = append(all, v)
		}
	}
	return all
}

// Bake reports whether it is built by a bake file.
func (p *Project) Bake() bool { return p.files["first/docker-bake.hcl"] != "" }

// Downloads are what a warm build of a version may download.
func (p *Project) Downloads(version string) (all []*regexp.Regexp, err error) {
	for line := range strings.Lines(p.files["downloads/"+version]) {
		re, err := regexp.Compile("^" + strings.TrimSpace(line) + "$")
		if err != nil {
			return nil, err
		}
		all = append(all, re)
	}
	return all, nil
}

// checksum stands for one of a crate, which is made when it is served.
var checksum = regexp.MustCompile(`CHECKSUM ([\w.-]+)`)

// Write makes a directory, which has been that of another version or is empty, the context of a version.
func (p *Project) Write(dir, version string) error {
	content := map[string]string{}
	for _, v := range Versions[:slices.Index(Versions, version)+1] {
		for name, text := range p.files {
			if rest, ok := strings.CutPrefix(name, v+"/"); ok {
				content[rest] = text
			}
		}
	}
	crates := packages(p.files, "crates")
	for name, text := range content {
		var err error
		text = checksum.ReplaceAllStringFunc(text, func(found string) string {
			pkg := checksum.FindStringSubmatch(found)[1]
			body, aerr := archive(pkg, crates[pkg])
			err = aerr
			return fmt.Sprintf("%x", sha256.Sum256(body))
		})
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
