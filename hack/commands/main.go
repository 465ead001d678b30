// Commands writes the reference of slipway's commands, docs/commands.md, and their man pages from the commands themselves.
//
//	go run ./hack/commands                          to standard output
//	go run ./hack/commands -w FILE                  to a file
//	go run ./hack/commands -man DIR -version 0.1.0  a man page for each command, dated by SOURCE_DATE_EPOCH
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	file := flag.String("w", "", "file to write to")
	dir := flag.String("man", "", "directory to write man pages to")
	version := flag.String("version", "", "version that the man pages tell")
	flag.Parse()
	plainEnvironment()
	err := error(nil)
	if *dir != "" {
		err = manPages(*dir, *version)
	} else {
		err = run(*file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "commands:", err)
		os.Exit(1)
	}
}

// plainEnvironment forgets variables that some flags take their defaults from.
func plainEnvironment() {
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "BUILDKIT_") || strings.HasPrefix(name, "DOCKER_") ||
			strings.HasPrefix(name, "SLIPWAY_") || strings.HasPrefix(name, "BUILDX_") {
			os.Unsetenv(name)
		}
	}
}

func run(file string) error {
	page := reference()
	if file == "" {
		_, err := os.Stdout.Write(page)
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, page) {
		return nil
	}
	return os.WriteFile(file, page, 0o644)
}
