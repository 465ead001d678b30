// Package local evaluates local:// sources: directories of the user's that a build reads.
package local

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/digests"
)

// Context is a tree of files that a build may read: a directory, or one of a client's in its session. Files belong to
// root whoever owns them on the host, and have no extended attributes, as in images that BuildKit makes of its contexts.
type Context interface {
	// Tree returns the files. Patterns are those of .dockerignore. Entries know the digest of their
	// content when it was read before and did not change since; they are shared and must not be
	// changed.
	Tree(ctx context.Context, include, exclude []string) (layer.Tree, error)
	// Hash reads the content of a file and remembers its digest.
	Hash(ctx context.Context, e *layer.Entry) (digest.Digest, error)
}

// Sent is a Context whose files come from elsewhere.
type Sent interface {
	// Sent is how many bytes have come so far: names and attributes, and contents that were not here.
	Sent() int64
}

// Contexts finds what the local sources of a build read. It gives the same Context for sources that read the same.
type Contexts interface {
	Context(op *pb.SourceOp) (Context, error)
}

// Named are contexts by the names of their sources.
type Named map[string]Context

// Context implements [Contexts].
func (n Named) Context(op *pb.SourceOp) (Context, error) {
	name := strings.TrimPrefix(op.Identifier, "local://")
	c, ok := n[name]
	if !ok {
		return nil, fmt.Errorf("no build context is named %q", name)
	}
	return c, nil
}

// Dir is a directory of the host as a Context, for one build: what is in the directory is what was
// there when the build first looked. It is safe for concurrent use.
type Dir struct {
	path    string
	cache   string // the file of digests; "" is none
	tmp     string // the directory of files without a name; "" is the system's
	digests *digests.Memory

	mu    sync.Mutex
	trees map[string]layer.Tree // by their patterns
}

// NewDir returns the directory as a context. cache is a file in which digests of contents are
// remembered; "" remembers them in memory only.
func NewDir(path, cache string) *Dir {
	tmp := ""
	if cache != "" {
		tmp = filepath.Dir(cache)
	}
	return &Dir{path: path, cache: cache, tmp: tmp, digests: digests.Open(cache, tmp), trees: map[string]layer.Tree{}}
}

// Close saves what is remembered.
func (d *Dir) Close() error {
	if d.cache == "" {
		return nil
	}
	if err := d.digests.SaveTo(d.cache); err != nil {
		return fmt.Errorf("remembering the digests of the build context: %w", err)
	}
	return nil
}

// Hash implements Context.
func (d *Dir) Hash(_ context.Context, e *layer.Entry) (digest.Digest, error) {
	return layer.HashContent(e)
}

// Tree implements Context.
func (d *Dir) Tree(_ context.Context, include, exclude []string) (layer.Tree, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := fmt.Sprintf("%q %q", include, exclude)
	if t, ok := d.trees[key]; ok {
		return t, nil
	}
	t, dir, err := d.open(include, exclude)
	if err != nil {
		return nil, err
	}
	d.trees[key] = newSnapshot(t, dir, d.digests, d.tmp)
	return d.trees[key], nil
}

// open gives the part of the directory that patterns select, and all of it.
func (d *Dir) open(include, exclude []string) (t, all layer.Tree, err error) {
	root, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading build context: %w", err)
	}
	fi, err := os.Stat(root)
	if err != nil {
		return nil, nil, fmt.Errorf("reading build context: %w", err)
	}
	if !fi.IsDir() {
		return nil, nil, fmt.Errorf("reading build context: %s is not a directory", root)
	}
	all = layer.OpenDir(root, layer.DirOptions{Owner: &layer.Owner{}, NoXattrs: true, Memory: d.digests})
	if t, err = layer.Filter(all, layer.FilterOpt{Include: include, Exclude: exclude}); err != nil {
		return nil, nil, fmt.Errorf("reading build context: %w", err)
	}
	return t, all, nil
}

// Strict is a context's tree for writing what was digested before: a file whose digest is not
// known has changed since, and cannot be read.
func Strict(t layer.Tree) layer.Tree { return strict{t} }

type strict struct{ layer.Tree }

func (s strict) Lstat(path string) (*layer.Entry, error) {
	e, err := s.Tree.Lstat(path)
	if err == nil {
		e = s.check(e)
	}
	return e, err
}

func (s strict) ReadDir(path string) ([]*layer.Entry, error) {
	list, err := s.Tree.ReadDir(path)
	for i, e := range list {
		list[i] = s.check(e)
	}
	return list, err
}

func (s strict) check(e *layer.Entry) *layer.Entry {
	if e.Content == nil || e.Digest != "" {
		return e
	}
	c := *e
	c.Content = changed(e.Path)
	return &c
}

// changed is the content of a file of which nobody knows what it was.
type changed string

func (c changed) Open() (io.ReadCloser, error) {
	return nil, fmt.Errorf("reading %s: %w", string(c), layer.ErrChanged)
}

// Patterns returns what a local source's attributes leave out. The paths to follow are a hint
// for the transfer only: nothing is transferred here, so they count for nothing. But as in a
// transfer, a malformed one is an error.
func Patterns(op *pb.SourceOp) (include, exclude []string, err error) {
	for attr, dst := range map[string]*[]string{pb.AttrIncludePatterns: &include, pb.AttrExcludePatterns: &exclude} {
		if v := op.Attrs[attr]; v != "" {
			if err := json.Unmarshal([]byte(v), dst); err != nil {
				return nil, nil, fmt.Errorf("reading attribute %s of %s: %w", attr, op.Identifier, err)
			}
		}
	}
	var follow []string
	if v := op.Attrs[pb.AttrFollowPaths]; v != "" {
		if err := json.Unmarshal([]byte(v), &follow); err != nil {
			return nil, nil, fmt.Errorf("reading attribute %s of %s: %w", pb.AttrFollowPaths, op.Identifier, err)
		}
	}
	for _, p := range follow {
		if _, err := filepath.Match(p, ""); err != nil {
			return nil, nil, fmt.Errorf("invalid includepatterns: %s: %w", follow, err)
		}
	}
	return include, exclude, nil
}
