// Package local evaluates local:// sources: directories of the user's that a build reads.
package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/layer"
)

// Context is a named tree of files that a build may read: a directory now, a client's session
// later. Files belong to root whoever owns them on the host, as BuildKit's contexts do.
type Context interface {
	// Tree returns the files. Patterns are those of .dockerignore.
	Tree(include, exclude []string) (layer.Tree, error)
}

// Dir is a directory of the host as a Context.
type Dir string

// Tree implements Context.
func (d Dir) Tree(include, exclude []string) (layer.Tree, error) {
	root, err := filepath.EvalSymlinks(string(d))
	if err != nil {
		return nil, fmt.Errorf("reading build context: %w", err)
	}
	fi, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("reading build context: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("reading build context: %s is not a directory", root)
	}
	t := layer.OpenDir(root, layer.DirOptions{Owner: &layer.Owner{}})
	if len(include) == 0 && len(exclude) == 0 {
		return t, nil
	}
	t, err = layer.Filter(t, layer.FilterOpt{Include: include, Exclude: exclude})
	if err != nil {
		return nil, fmt.Errorf("reading build context: %w", err)
	}
	return t, nil
}

// Patterns returns what a local source's attributes leave out. The paths to follow are a hint
// for the transfer only: nothing is transferred here, so they count for nothing.
func Patterns(op *pb.SourceOp) (include, exclude []string, err error) {
	for attr, dst := range map[string]*[]string{pb.AttrIncludePatterns: &include, pb.AttrExcludePatterns: &exclude} {
		if v := op.Attrs[attr]; v != "" {
			if err := json.Unmarshal([]byte(v), dst); err != nil {
				return nil, nil, fmt.Errorf("reading attribute %s of %s: %w", attr, op.Identifier, err)
			}
		}
	}
	return include, exclude, nil
}
