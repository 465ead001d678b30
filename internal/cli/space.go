package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/view"
)

// noSpace tells where there is no space left, when an error says that there is none, and what gives some back: also of a
// store that has reached its limit.
func (a *app) noSpace(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return "" // the user does not wait
	}
	if errors.As(err, new(*store.LimitError)) {
		return a.givesBack(ctx) + "\n"
	}
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
		text += ". " + a.givesBack(ctx)
	}
	return text + "\n"
}

// givesBack tells what gives space of the store back, and how much.
func (a *app) givesBack(ctx context.Context) string {
	shows := fmt.Sprintf("`%s system df` shows what the store takes; ", a.name)
	if a.openStore != nil {
		if u, err := view.DiskUsage(ctx, &container.Manager{Store: a.openStore}); err == nil {
			return shows + givesBack(u, a.name)
		}
	}
	return shows + "`builder prune`, `image prune`, `rmi` and `system prune --all` give space of the store back"
}

// givesBack tells how much of the space commands would give back.
func givesBack(u *view.Usage, name string) string {
	dangling, cache, all := u.GivesBack()
	var ways []string
	way := func(command, words string, bytes, instead int64) {
		if bytes > instead {
			ways = append(ways, fmt.Sprintf("`%s %s` would give %s%s back", name, command, words, size(bytes)))
		}
	}
	way("builder prune", "", dangling, 0)
	way("builder prune --all", "", cache, dangling)
	way("system prune --all", "at least ", all, cache)
	if len(ways) == 0 {
		return "nothing of it is unused: remove images and containers"
	}
	return strings.Join(ways, ", ")
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
