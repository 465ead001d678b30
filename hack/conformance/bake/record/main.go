// Command record notes what buildx makes of bake files.
//
//	record -buildx PATH -buildkitd PATH -buildctl PATH -out DIR CASES
//
// CASES are the projects that are built, what is printed comes from buildx' own tests. It runs the daemon as root, with
// everything below a temporary directory.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if filepath.Base(os.Args[0]) == "buildx" {
		fmt.Fprintln(os.Stderr, "record:", standIn())
		os.Exit(1)
	}
	var r recorder
	flag.StringVar(&r.buildx, "buildx", "buildx", "buildx")
	flag.StringVar(&r.buildkitd, "buildkitd", "buildkitd", "BuildKit's daemon, for those of buildx' tests that build")
	flag.StringVar(&r.buildctl, "buildctl", "buildctl", "BuildKit's client")
	flag.StringVar(&r.out, "out", "testdata", "where the records go")
	flag.StringVar(&r.kept, "calls", "", "a directory with what buildx' tests called in another run, in the place of letting them run")
	flag.Parse()
	r.projects = flag.Arg(0)
	if err := r.main(); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}
