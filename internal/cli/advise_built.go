package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/advise"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/engine"
	"github.com/slipway-build/slipway/internal/filetrace"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// lastBuild is a build among all that are recorded, the newest first.
type lastBuild struct {
	of      *build.Recorded
	all     []build.Recorded
	context *os.Root // nil: it is none, or gone
}

// openLast opens what is looked at of a build. It is to be closed.
func openLast(of *build.Recorded, all []build.Recorded) *lastBuild {
	l := &lastBuild{of: of, all: all}
	if filepath.IsAbs(of.Context) {
		if root, err := os.OpenRoot(of.Context); err == nil {
			l.context = root
		}
	}
	return l
}

func (l *lastBuild) close() {
	if l != nil && l.context != nil {
		_ = l.context.Close() // it was only looked at
	}
}

// left is what it and those before it have left; nil where that says nothing of the graph.
func (l *lastBuild) left(ctx context.Context, s *store.Store) *advise.Built {
	g, err := l.of.Graph()
	if err != nil {
		return nil
	}
	return &advise.Built{
		Graph: g, Lists: l.of.Lists(), Runs: l.runs, Size: l.size, Content: l.content,
		Opened: func(key string, each func(filetrace.Kind, string) error) (*filetrace.Summary, error) {
			r, sum := build.Traced(l.all, engine.Key(key), false)
			if r == nil {
				return nil, nil
			}
			return sum, r.OpenedFiles(engine.Key(key), each)
		},
		Layer: func(key string) (layer.Tree, error) { return l.layer(ctx, s, engine.Key(key)) },
		Shared: slices.ContainsFunc(l.all, func(r build.Recorded) bool {
			return !r.Imported && r.Context == l.of.Context && r.File != l.of.File && r.File != ""
		}),
	}
}

// runs are how long a step has run in the builds of the same Dockerfile.
func (l *lastBuild) runs(step string) (all []time.Duration) {
	for _, r := range l.all {
		if r.Imported || r.File != l.of.File || r.Context != l.of.Context {
			continue
		}
		for _, s := range r.Steps {
			if !s.Cached && s.Shared == "" && s.Error == "" && s.Process != nil && reasons.Step(s.Name) == step {
				all = append(all, s.Process.Run)
			}
		}
	}
	return all
}

// size looks at a file of the context, which is not followed out of it.
func (l *lastBuild) size(name string) (int64, bool) {
	if l.context == nil {
		return 0, false
	}
	fi, err := l.context.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

// maxContent is how long a file of the context may be that is read.
const maxContent = 1 << 20

// content reads a regular file of the context, which is not followed out of it.
func (l *lastBuild) content(name string) ([]byte, error) {
	if _, regular := l.size(name); !regular {
		return nil, fmt.Errorf("%s is no file of the context: %w", name, os.ErrNotExist)
	}
	f, err := l.context.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readUpTo(f, name, maxContent)
}

// readUpTo reads what has a name and no more than so many bytes.
func readUpTo(r io.Reader, name string, most int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is longer than %d bytes", name, most)
	}
	return data, err
}

// layer is what a step has changed, as one of its runs left it that the store still has.
func (l *lastBuild) layer(ctx context.Context, s *store.Store, key engine.Key) (layer.Tree, error) {
	for _, r := range l.all {
		for _, step := range r.Steps { // IDs of layers are those of a store
			if r.Imported || step.Key != key || len(step.Layers) != 1 {
				continue
			}
			t, err := s.OwnTree(ctx, layer.ID(step.Layers[0]), store.NeedMetadata)
			if err == nil || !errors.Is(err, store.ErrNotFound) {
				return t, err
			}
		}
	}
	return nil, store.ErrNotFound
}

// maxIgnoreFile is how long the file may be that says what is ignored.
const maxIgnoreFile = 1 << 20

// ignoreFile is the one that counts for a Dockerfile: its own, or that of the context.
func ignoreFile(dir, file, name string) (advise.IgnoreFile, error) {
	for _, f := range []struct{ path, name string }{{file + ".dockerignore", name + ".dockerignore"}, {filepath.Join(dir, ".dockerignore"), ".dockerignore"}} {
		data, err := os.Open(f.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return advise.IgnoreFile{}, err
		}
		text, err := readUpTo(data, f.path, maxIgnoreFile)
		err = errors.Join(err, data.Close())
		return advise.IgnoreFile{Name: f.name, Text: string(text)}, err
	}
	return advise.IgnoreFile{Name: ".dockerignore", New: true}, nil
}
