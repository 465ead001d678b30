// Commands writes the reference of slipway's commands, docs/commands.md, from the commands themselves.
//
//	go run ./hack/commands            to standard output
//	go run ./hack/commands -w FILE    to a file
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
)

func main() {
	file := flag.String("w", "", "file to write to")
	flag.Parse()
	if err := run(*file); err != nil {
		fmt.Fprintln(os.Stderr, "commands:", err)
		os.Exit(1)
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
