// Package program holds the compiled command internal/sandbox/initproc/init, if `make build` has
// put it here. A program that was built by `go build` alone does without.
package program

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

//go:embed bin
var files embed.FS

// Open opens the compiled command. The error is [fs.ErrNotExist] if it is not here.
func Open() (fs.File, error) { return files.Open("bin/init") }

// Write writes a program to an executable file that must not exist.
func Write(from io.Reader, path string) error {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
