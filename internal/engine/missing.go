package engine

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/patternmatcher"

	"github.com/slipway-build/slipway/internal/fileop"
	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/source/local"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
)

// missing adds, to an error about a file that n reads of an input and that is not there, lines that say why.
func (r *Run) missing(ctx context.Context, n *node, in edge, err error) error {
	var gone *fileop.NotFoundError
	if !errors.As(err, &gone) || in.n == nil {
		return err
	}
	var why string
	var tree layer.Tree
	if isLocal(in.n) {
		tree, why = r.missingLocal(ctx, n, in.n, gone.Path)
	} else {
		why = "it was looked for in " + terminal.Short(in.n.v.Name(), maxCommand)
		if v, verr := r.value(ctx, in); verr == nil {
			if !v.local() && len(v.Snapshot) == 0 { // BuildKit has no sum of nothing
				err = &fileop.NotFoundError{Path: gone.Path, Late: true}
			}
			tree, _ = r.Tree(ctx, v, store.NeedMetadata) // it is only for a hint
		}
	}
	if meant := similar(tree, gone.Path); meant != "" {
		why += fmt.Sprintf(" (did you mean %q?)", meant)
	}
	return fmt.Errorf("%w\n  %s", err, why)
}

// missingLocal says why a context does not have a file. The tree is what it has.
func (r *Run) missingLocal(ctx context.Context, n, source *node, name string) (layer.Tree, string) {
	c, tree, err := r.localTree(ctx, source.v.Op.GetSource())
	if err != nil {
		return nil, "check the path"
	}
	if _, exclude, err := local.Patterns(source.v.Op.GetSource()); err == nil && len(exclude) > 0 {
		all, err := c.Tree(ctx, []string{strings.TrimPrefix(name, "/")}, nil) // of a client's directory nothing else is listed
		if err == nil {
			_, err = all.Lstat(strings.TrimPrefix(name, "/"))
		}
		if err == nil {
			if pattern := excludedBy(exclude, strings.TrimPrefix(name, "/")); pattern != "" {
				return nil, fmt.Sprintf("it is in the directory, but its .dockerignore leaves it out, by the pattern %q", pattern)
			}
		}
	}
	if _, exclude, perr := local.Patterns(source.v.Op.GetSource()); perr == nil {
		if _, sent := c.(local.Sent); !sent { // for names like it: the build itself looks at nothing but what it copies
			if all, terr := c.Tree(ctx, nil, exclude); terr == nil {
				tree = all
			}
		}
	}
	if name := n.v.Name(); strings.Contains(name, " ../") || strings.Contains(name, `"../`) || strings.Contains(name, "=../") {
		return tree, "a path cannot leave the build context: build with a directory above as the context, or give another one with --build-context NAME=DIRECTORY"
	}
	return tree, "check the path: it begins in the directory that is the build context"
}

// excludedBy is the pattern that decides that a file is left out; "": it is not.
func excludedBy(patterns []string, name string) string {
	by := ""
	for _, p := range patterns {
		so := []string{p}
		if by != "" {
			so = []string{"**", p} // what is left out so far, the next pattern may bring back
		}
		m, err := patternmatcher.New(so)
		if err != nil {
			return ""
		}
		switch out, err := m.MatchesOrParentMatches(name); {
		case err != nil:
			return ""
		case !out:
			by = ""
		case by == "":
			by = p
		}
	}
	return by
}

// maxSimilar is how many names of a directory are compared with the one that is missing.
const maxSimilar = 10_000

// similar is the path of a tree that may be meant by one that is not there; "": none is.
func similar(tree layer.Tree, name string) string {
	if tree == nil {
		return ""
	}
	dir, base := path.Split(strings.TrimPrefix(name, "/"))
	all, err := tree.ReadDir(path.Clean(dir)) // "." for the top
	if err != nil || len(all) > maxSimilar {
		return ""
	}
	var names []string
	for _, e := range all {
		names = append(names, path.Base(e.Path))
	}
	if meant, ok := suggest.Search(base, names, false); ok && meant != base {
		return "/" + dir + meant
	}
	return ""
}
