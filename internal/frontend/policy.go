package frontend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/graph"
)

// policy decides which sources a build may use, and which take the place of others. Nil is any.
type policy struct{ engine *sourcepolicy.Engine }

// policy is the build's and that of one request.
func (c *Client) policy(more []*spb.Policy) (*policy, error) {
	all := slices.Concat(c.opt.SourcePolicies, more)
	if len(all) == 0 {
		return nil, nil
	}
	for _, p := range all {
		if p == nil {
			return nil, errors.New("invalid nil source policy")
		}
		for _, r := range p.Rules {
			switch {
			case r == nil:
				return nil, errors.New("invalid nil rule in policy")
			case r.Selector == nil:
				return nil, errors.New("invalid nil selector in policy")
			}
		}
	}
	return &policy{sourcepolicy.NewEngine(all)}, nil
}

// source is what a source becomes, which is left as it is.
func (p *policy) source(ctx context.Context, op *pb.SourceOp) (_ *pb.SourceOp, changed bool, err error) {
	if p == nil {
		return op, false, nil
	}
	op = op.CloneVT()
	changed, err = p.engine.Evaluate(ctx, op)
	return op, changed, err
}

// image is the reference that takes the place of one.
func (p *policy) image(ctx context.Context, ref, scheme string) (string, error) {
	op, changed, err := p.source(ctx, &pb.SourceOp{Identifier: scheme + "://" + ref})
	if err != nil || !changed {
		return ref, err
	}
	if scheme != srctypes.DockerImageScheme {
		return "", fmt.Errorf("the source policy replaces %s://%s, a layout that the build was given, with %s: this is not supported", scheme, ref, op.Identifier)
	}
	updated, ok := strings.CutPrefix(op.Identifier, srctypes.DockerImageScheme+"://")
	if !ok {
		return "", &imageutil.ResolveToNonImageError{Ref: ref, Updated: op.Identifier} // which frontends look for
	}
	return updated, nil
}

// definition is what a graph becomes. What stands on a source that was replaced has another digest.
func (p *policy) definition(ctx context.Context, def *pb.Definition) (*pb.Definition, error) {
	if p == nil || def == nil || len(def.Def) == 0 {
		return def, nil
	}
	r := &rewriting{ops: map[digest.Digest]*pb.Op{}, now: map[digest.Digest]digest.Digest{}}
	order := make([]digest.Digest, 0, len(def.Def))
	changed := false
	for _, data := range def.Def {
		op, err := graph.ReadOp(data)
		if err != nil {
			return nil, err
		}
		if src := op.GetSource(); src != nil {
			now, mutated, err := p.source(ctx, src)
			if err != nil {
				return nil, err
			}
			op.Op, changed = &pb.Op_Source{Source: now}, changed || mutated
		}
		d := digest.FromBytes(data)
		r.ops[d] = op
		order = append(order, d)
	}
	if !changed {
		return def, nil
	}
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	for _, d := range order {
		data, err := r.marshal(d)
		if err != nil {
			return nil, err
		}
		out.Def = append(out.Def, data)
		if m := def.Metadata[d.String()]; m != nil {
			out.Metadata[r.now[d].String()] = m
		}
	}
	if src := def.Source; src != nil {
		out.Source = &pb.Source{Infos: src.Infos, Locations: map[string]*pb.Locations{}}
		for _, d := range order {
			if l := src.Locations[d.String()]; l != nil {
				out.Source.Locations[r.now[d].String()] = l
			}
		}
	}
	return out, nil
}

// rewriting gives operations new digests.
type rewriting struct {
	ops map[digest.Digest]*pb.Op
	now map[digest.Digest]digest.Digest // "" while that of an input is found out
}

func (r *rewriting) marshal(d digest.Digest) ([]byte, error) {
	op := r.ops[d]
	if _, err := r.digest(d); err != nil {
		return nil, err
	}
	return op.Marshal()
}

func (r *rewriting) digest(d digest.Digest) (digest.Digest, error) {
	if now, ok := r.now[d]; ok {
		if now == "" {
			return "", fmt.Errorf("reading LLB: operation %s depends on itself", d)
		}
		return now, nil
	}
	op := r.ops[d]
	if op == nil {
		return "", fmt.Errorf("reading LLB: operation %s is missing", d)
	}
	r.now[d] = ""
	for _, in := range op.Inputs {
		now, err := r.digest(digest.Digest(in.Digest))
		if err != nil {
			return "", err
		}
		in.Digest = now.String()
	}
	data, err := op.Marshal()
	if err != nil {
		return "", fmt.Errorf("writing LLB: %w", err)
	}
	r.now[d] = digest.FromBytes(data)
	return r.now[d], nil
}
