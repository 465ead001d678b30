package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/store"
)

// noSpace tells where there is no space left, when an error says that there is none, and what gives some back.
func (a *app) noSpace(err error) string {
	if !store.IsFull(err) {
		return ""
	}
	root, rerr := a.storeRoot()
	if rerr == nil {
		root, rerr = filepath.Abs(root)
	}
	if rerr != nil {
		return ""
	}
	dir := root
	var file *fs.PathError
	var files *os.LinkError
	switch {
	case errors.As(err, &file):
		dir = existing(file.Path)
	case errors.As(err, &files):
		dir = existing(files.New)
	}
	if strings.HasPrefix(dir+"/", root+"/") {
		dir = root // what is below it is nothing that users know of
	}
	var at, own unix.Stat_t
	var space unix.Statfs_t
	if unix.Stat(dir, &at) != nil || unix.Statfs(dir, &space) != nil {
		return ""
	}
	text := fmt.Sprintf("no space left on %s: %s are free", dir, size(int64(space.Bavail)*space.Bsize))
	if store.NoInodes(space) {
		text = fmt.Sprintf("no inodes left on %s: %d are free", dir, space.Ffree)
	}
	if unix.Stat(root, &own) == nil && own.Dev == at.Dev {
		text += fmt.Sprintf(". `%s system df` shows what the store takes; `builder prune`, `image prune`, `rmi` and `system prune --all` give space of the store back", a.name)
	}
	return text + "\n"
}

// existing is the directory of a path that is there.
func existing(path string) string {
	path, _ = filepath.Abs(path)
	for {
		fi, err := os.Stat(path)
		if err == nil && fi.IsDir() || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}
