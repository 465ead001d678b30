package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
	imagesource "github.com/slipway-build/slipway/internal/source/image"
	"github.com/slipway-build/slipway/internal/source/local"
)

// sourceKind is how the sources of one scheme are served.
type sourceKind struct {
	// lines writes what the source's key consists of. Errors need no place.
	lines func(r *Run, ctx context.Context, n *node, op *pb.SourceOp) (keyLines, error)
	// value gives the files, and tells a display of it. It is for sources whose value costs little
	// to give again: nothing is looked up or recorded for them.
	value func(r *Run, ctx context.Context, n *node, op *pb.SourceOp) (Value, error)
	// fetch gives the files where there is no value: what it gives is recorded under the key.
	fetch func(r *Run, ctx context.Context, n *node, op *pb.SourceOp, step *progress.Step) (Value, error)
}

// kindOf finds how a source is served.
func kindOf(op *pb.SourceOp) (sourceKind, error) {
	scheme, _, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "local":
		return sourceKind{lines: (*Run).localSource, value: (*Run).localValue}, nil
	case "docker-image", "oci-layout":
		return sourceKind{lines: (*Run).imageSource, value: (*Run).imageValue}, nil
	case "http", "https":
		return sourceKind{lines: (*Run).httpSource, value: (*Run).httpValue}, nil
	case "git":
		return sourceKind{lines: (*Run).gitSource, fetch: (*Run).fetchGit}, nil
	case srctypes.DockerImageBlobScheme, srctypes.OCIBlobScheme:
		return sourceKind{lines: (*Run).blobSource, fetch: (*Run).fetchBlob}, nil
	}
	return sourceKind{}, fmt.Errorf("a source of the kind %s is not supported: %s", scheme, op.Identifier)
}

func (r *Run) identifySource(ctx context.Context, n *node, op *pb.SourceOp) (identity, error) {
	kind, err := kindOf(op)
	if err != nil {
		return identity{}, err
	}
	lines, err := kind.lines(r, ctx, n, op)
	if err != nil {
		return identity{}, err
	}
	id := r.seal(n, lines)
	id.fresh = id.fresh && isLocal(n) // another source is what its key says, whether or not it is asked for again
	return id, nil
}

// evaluateSource gives the value of a source. done is false for one that is to be looked up, and
// fetched, like any other vertex.
func (r *Run) evaluateSource(ctx context.Context, n *node, op *pb.SourceOp) (out *outcome, done bool, err error) {
	kind, err := kindOf(op)
	if err != nil || kind.value == nil {
		return nil, err != nil, err
	}
	v, err := kind.value(r, ctx, n, op)
	if err != nil {
		return nil, true, err
	}
	return &outcome{outputs: []Value{v}}, true, nil
}

// fetchSource is the operation of a source that is recorded.
func (r *Run) fetchSource(ctx context.Context, w work, n *node, op *pb.SourceOp) ([]Value, error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, err
	}
	v, err := kind.fetch(r, ctx, n, op, w.step)
	return []Value{v}, err
}

// Pin returns what a source was resolved to: the hash of a git commit, the digest of a file from
// http, or of what the reference of an image names; "" for other kinds, whose identifiers tell it.
func (r *Run) Pin(ctx context.Context, v *graph.Vertex) (string, error) {
	ctx, end := r.begin(ctx)
	defer end()
	n := r.node(v)
	id, err := n.identity(ctx)
	if err != nil {
		return "", err
	}
	op := v.Op.GetSource()
	scheme, _, _ := strings.Cut(op.GetIdentifier(), "://")
	switch scheme {
	case "docker-image":
		img, err := n.run.resolve(ctx, n, op)
		if err != nil {
			return "", err
		}
		return img.Root.String(), nil
	case "git": // of an annotated tag it is the tag, as in BuildKit
		req, err := gitsource.Parse(op)
		if err != nil {
			return "", err
		}
		c, err := n.run.gitCommit(ctx, n, req)
		if err != nil {
			return "", err
		}
		return c.Object, nil
	case "http", "https":
		for _, line := range id.lines {
			if pin, ok := strings.CutPrefix(line, "content "); ok {
				return pin, nil
			}
		}
	}
	return "", nil
}

func (r *Run) localSource(ctx context.Context, n *node, _ *pb.SourceOp) (keyLines, error) {
	d, err := r.content(ctx, edge{n: n}, []*pb.FileActionCopy{selection("/")}, func() {})
	return localLines(d), err
}

func (r *Run) localValue(ctx context.Context, _ *node, op *pb.SourceOp) (Value, error) {
	_, tree, err := r.localTree(ctx, op)
	return Value{tree: tree}, err
}

func (r *Run) imageSource(ctx context.Context, n *node, op *pb.SourceOp) (keyLines, error) {
	img, err := r.resolve(ctx, n, op)
	if err != nil {
		return nil, err
	}
	lines := imageLines(img.Digest, platforms.FormatAll(img.Platform))
	if want, err := wantedOf(op); err != nil {
		return nil, err
	} else if want.layers > 0 {
		lines.add("layers", strconv.Itoa(want.layers))
	}
	return lines, nil
}

func (r *Run) imageValue(ctx context.Context, n *node, op *pb.SourceOp) (Value, error) {
	p, err := r.pull(ctx, n, op)
	if err != nil {
		return Value{}, err
	}
	r.seatFor(n)
	if !p.missing {
		r.tellCached(n)
	}
	return Value{Snapshot: p.snap, of: n.src.shared}, nil
}

// source is a directory or an image that runs have in common. Its steps are told to all of them.
type source struct {
	*shared
	audience
	asked time.Time

	image  future[*imagesource.Image]
	layers future[*pulling]

	reader contextReader // of a directory

	contentsMu sync.Mutex
	contents   map[string]*future[digested] // by the selection
}

// sourceKey is what a source is shared by.
type sourceKey struct {
	digest   digest.Digest
	dir      local.Context // of a directory
	bound    string        // what else of its build it is
	platform string        // of an image
	pull     bool
}

// source gives what a node has in common with other runs, for directories and images; nil for others. What a reference is may change:
// it is none that was resolved before the run began.
func (r *Run) source(n *node) *source {
	if !isLocal(n) && !isImage(n) {
		return nil
	}
	key := r.sourceKey(n)
	r.Engine.mu.Lock()
	defer r.Engine.mu.Unlock()
	s := r.sources[key]
	if s == nil || s.ctx.Err() != nil || isImage(n) && s.asked.Before(r.since) && s.image.has() {
		mine := &source{shared: r.newShared(), asked: time.Now(), contents: map[string]*future[digested]{}}
		mine.image.common, mine.layers.common = true, true
		mine.forget = func() {
			if r.sources[key] == mine {
				delete(r.sources, key)
			}
		}
		if s = mine; !r.closed {
			r.sources[key] = s
		}
	}
	r.hold(s.shared)
	return s
}

// seatFor has the run told of what is fetched of a node's layers, whenever somebody needs it; in the end it is cached, if nothing was.
func (r *Run) seatFor(n *node) {
	seat := n.src.join(n.seat())
	r.whenOver(func(failed bool) {
		n.src.leave(seat, context.Canceled)
		if !failed { // others had, or fetched, all that was needed of it
			r.tellCached(n)
		}
	})
}

// content gives the future of the digest of some files of a directory.
func (s *source) content(selection string) *future[digested] {
	s.contentsMu.Lock()
	defer s.contentsMu.Unlock()
	f := s.contents[selection]
	if f == nil {
		f = &future[digested]{common: true}
		s.contents[selection] = f
	}
	return f
}
