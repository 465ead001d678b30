package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-build/slipway/internal/cache"
)

// bringPacked fetches contexts that are kept in repositories (packed://), puts directories in their places in the flags, and gives the context. A Dockerfile
// is then a path in the context, or a file of another such context: packed://...#NAME.
func (a *app) bringPacked(ctx context.Context, o *buildFlags, contextArg string) (string, error) {
	packed := strings.HasPrefix(contextArg, cache.PackedScheme)
	if packed {
		dir, err := a.fetchPacked(ctx, contextArg)
		if err != nil {
			return "", err
		}
		contextArg = dir
	}
	switch name, file, ok := strings.Cut(o.file, "#"); {
	case ok && strings.HasPrefix(name, cache.PackedScheme):
		dir, err := a.fetchPacked(ctx, name)
		if err != nil {
			return "", err
		}
		o.file = filepath.Join(dir, filepath.Base(file))
	case packed && o.file != "" && filepath.IsLocal(o.file):
		o.file = filepath.Join(contextArg, o.file)
	}
	for i, v := range o.contexts {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(value, cache.PackedScheme) {
			continue
		}
		dir, err := a.fetchPacked(ctx, value)
		if err != nil {
			return "", err
		}
		o.contexts[i] = name + "=" + dir
	}
	return contextArg, nil
}

// fetchPacked fetches one into a directory that goes when the command ends.
func (a *app) fetchPacked(ctx context.Context, name string) (string, error) {
	from, err := cache.ParsePacked(name)
	if err != nil {
		return "", err
	}
	s, err := a.Store()
	if err != nil {
		return "", err
	}
	tmp, err := s.TempDir()
	if err != nil {
		return "", err
	}
	a.atEnd = append(a.atEnd, func() { os.RemoveAll(tmp) })
	dir := filepath.Join(tmp, "context")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	_, _, err = cache.FetchContext(ctx, s, a.registry(), from, dir)
	return dir, err
}
