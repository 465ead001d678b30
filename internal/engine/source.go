package engine

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-build/slipway/internal/graph"
	"github.com/slipway-build/slipway/internal/progress"
	gitsource "github.com/slipway-build/slipway/internal/source/git"
)

// sourceKind is how the sources of one scheme are served.
type sourceKind struct {
	// lines writes what the source's key consists of. Errors need no place.
	lines func(r *Run, n *node, op *pb.SourceOp) (keyLines, error)
	// value gives the files, and tells a display of it. It is for sources whose value costs little
	// to give again: nothing is looked up or recorded for them.
	value func(r *Run, n *node, op *pb.SourceOp) (Value, error)
	// fetch gives the files where there is no value: what it gives is recorded under the key.
	fetch func(r *Run, n *node, op *pb.SourceOp, step *progress.Step) (Value, error)
}

// sourceKinds are the kinds of sources by their schemes.
var sourceKinds = map[string]sourceKind{
	"local":        {lines: (*Run).localSource, value: (*Run).localValue},
	"docker-image": {lines: (*Run).imageSource, value: (*Run).imageValue},
	"oci-layout":   {lines: (*Run).imageSource, value: (*Run).imageValue},
	"http":         {lines: (*Run).httpSource, value: (*Run).httpValue},
	"https":        {lines: (*Run).httpSource, value: (*Run).httpValue},
	"git":          {lines: (*Run).gitSource, fetch: (*Run).fetchGit},
}

// kindOf finds how a source is served.
func kindOf(op *pb.SourceOp) (sourceKind, error) {
	scheme, _, _ := strings.Cut(op.Identifier, "://")
	kind, ok := sourceKinds[scheme]
	if !ok {
		return kind, fmt.Errorf("a source of the kind %s is not supported: %s", scheme, op.Identifier)
	}
	return kind, nil
}

func (r *Run) identifySource(n *node, op *pb.SourceOp) (identity, error) {
	kind, err := kindOf(op)
	if err != nil {
		return identity{}, r.fail(n, err)
	}
	lines, err := kind.lines(r, n, op)
	if err != nil {
		return identity{}, r.fail(n, err)
	}
	id := r.seal(n, lines)
	id.fresh = id.fresh && isLocal(n) // another source is what its key says, whether or not it is asked for again
	return id, nil
}

// evaluateSource gives the value of a source. done is false for one that is to be looked up, and
// fetched, like any other vertex.
func (r *Run) evaluateSource(n *node, op *pb.SourceOp) (out *outcome, done bool, err error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, true, r.fail(n, err)
	}
	if kind.value == nil {
		return nil, false, nil
	}
	v, err := kind.value(r, n, op)
	if err != nil {
		return nil, true, r.fail(n, err)
	}
	return &outcome{outputs: []Value{v}}, true, nil
}

// fetchSource is the operation of a source that is recorded.
func (r *Run) fetchSource(n *node, op *pb.SourceOp, step *progress.Step) ([]Value, error) {
	kind, err := kindOf(op)
	if err != nil {
		return nil, err
	}
	v, err := kind.fetch(r, n, op, step)
	return []Value{v}, err
}

// Pin returns what a source was resolved to: the hash of a git commit, the digest of a file from
// http; "" for other kinds, whose identifiers tell it.
func (r *Run) Pin(v *graph.Vertex) (string, error) {
	n := r.node(v)
	id, err := n.identity()
	if err != nil {
		return "", err
	}
	op := v.Op.GetSource()
	scheme, _, _ := strings.Cut(op.GetIdentifier(), "://")
	switch scheme {
	case "git": // of an annotated tag it is the tag, as in BuildKit
		req, err := gitsource.Parse(op)
		if err != nil {
			return "", err
		}
		c, err := r.gitCommit(n, req)
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

func (r *Run) localSource(n *node, _ *pb.SourceOp) (keyLines, error) {
	d, err := r.content(edge{n: n}, []*pb.FileActionCopy{selection("/")}, func() {})
	return localLines(d), err
}

func (r *Run) localValue(_ *node, op *pb.SourceOp) (Value, error) {
	_, tree, err := r.localTree(op)
	return Value{tree: tree}, err
}

func (r *Run) imageSource(n *node, op *pb.SourceOp) (keyLines, error) {
	img, err := r.resolve(n, op)
	if err != nil {
		return nil, err
	}
	return imageLines(img.Digest, platforms.FormatAll(img.Platform)), nil
}

func (r *Run) imageValue(n *node, op *pb.SourceOp) (Value, error) {
	snap, err := r.pull(n, op)
	return Value{Snapshot: snap}, err
}
