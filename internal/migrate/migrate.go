// Package migrate turns the builder pattern (a script that builds one image, takes files out of a container of it, and builds another
// image with them) into one Dockerfile with several stages.
//
// # Structure
//
// [Read] follows a script as a shell would, without running anything: variables (words.go), builds and containers (docker.go), files
// (files.go). What it cannot follow is a [Problem] with its line, if it matters for the images. [Script.Merge] makes one Dockerfile of those
// that the script builds (stages.go, merge.go): a file that the script takes out of a container becomes a COPY --from.
//
// # Caveats
//
// Whether the image is the same is proved by building both: whoever calls this does that. Variables that the script does not set stay
// as they are written, "${VERSION}".
package migrate

import (
	"fmt"
	"strings"
)

// Problem is something that cannot be migrated, or that somebody should know.
type Problem struct {
	File string // as it was named
	Line int
	Text string
}

func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text) }

// Problems is an error: all that cannot be migrated.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return "cannot be migrated:\n  " + strings.Join(lines, "\n  ")
}

// Script is what a script does that matters for images.
type Script struct {
	Name   string
	Dir    string // its directory; paths of builds and files are relative to it
	Builds []*Build
	Notes  []Problem // what is left out, or taken for something else
}

// Build is one image that a script builds.
type Build struct {
	Line     int
	Names    []string // as the script has them
	Context  string
	File     string // Dockerfile
	Text     string // of it
	Args     []Arg
	Target   string
	Platform string
	Files    []*Extract        // that are in the directory of the script when it is built
	Written  []Written         // that the script has made by then
	Built    map[string]*Build // images that the script has built by then, and
	Foreign  map[string]string // names that it has given to others, by plainName
}

// Arg is a build argument.
type Arg struct{ Name, Value string }

// Written is a file that a script writes.
type Written struct {
	Path string // relative to the script
	Line int
}

// Extract is a file or a directory that the script takes out of a container.
type Extract struct {
	Line     int
	Build    *Build   // whose image the container is of; nil: of Image
	Image    string   // that the script does not build
	Runs     []string // a command, in the form of RUN, that ran in the container before
	Path     string   // there
	Contents bool     // what is in the directory Path, not the directory itself
	To       string   // where it is put, relative to the script
	Follow   bool     // a symbolic link is put there as what it leads to
	copied   bool     // the script has it, or a part of it, somewhere else too
}

// name is what to call an image where people look.
func (b *Build) name() string {
	if len(b.Names) > 0 {
		return b.Names[0]
	}
	return fmt.Sprintf("image of line %d", b.Line)
}

// Runtime is the image that the script is for: the last one that it builds.
func (s *Script) Runtime() *Build { return s.Builds[len(s.Builds)-1] }
