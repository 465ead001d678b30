package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// treeStat is the size of a tree.
type treeStat struct {
	Files int
	Bytes int64 // of the regular files
}

func dirName(i int) string  { return fmt.Sprintf("d%03d", i) }
func fileName(i int) string { return fmt.Sprintf("f%05d", i) }

// writeFiles makes n files of random bytes, perDir in a directory. The bytes are the same in
// every run.
func writeFiles(dir string, n, perDir, bytes int) error {
	source := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, bytes)
	for i := range n {
		parent := filepath.Join(dir, dirName(i/perDir))
		if i%perDir == 0 {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
		}
		source.Read(buf) // never fails
		if err := os.WriteFile(filepath.Join(parent, fileName(i)), buf, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// goRoot is the installed Go tool chain: the one large tree that every machine has on which this
// program runs.
func goRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("finding the Go tool chain: %w", err)
	}
	return filepath.EvalSymlinks(strings.TrimSpace(string(out)))
}

// tree is where the copy of the Go tool chain is.
func (m *room) tree() string { return treeIn(m.dir) }

func treeIn(dir string) string { return filepath.Join(dir, "tree") }

// copyGoRoot copies the Go tool chain to the tmpfs.
func (m *room) copyGoRoot(ctx context.Context) error {
	goroot, err := goRoot(ctx)
	if err != nil {
		return err
	}
	_, err = copyTree(goroot, m.tree(), 1<<62)
	return err
}

// copyTree copies the regular files of a tree, in order of their names, until they have so many
// bytes, and the directories that they are in.
func copyTree(from, to string, bytes int64) (stat treeStat, err error) {
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		n, err := copyFile(path, filepath.Join(to, rel))
		stat.Files++
		stat.Bytes += n
		if err == nil && stat.Bytes >= bytes {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return stat, fmt.Errorf("copying %s: %w", from, err)
	}
	return stat, nil
}

// copyFile copies a file with its permissions.
func copyFile(from, to string) (n int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return 0, err
	}
	n, err = out.ReadFrom(in)
	return n, errors.Join(err, out.Close())
}
