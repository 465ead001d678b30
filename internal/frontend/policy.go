package frontend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-build/slipway/internal/graph"
)

// policy decides which sources a build may use, and which take the place of others. Nil is any.
type policy struct {
	client *Client
	engine *sourcepolicy.Engine
}

// policy is the build's and that of one request.
func (c *Client) policy(more []*spb.Policy) (*policy, error) {
	all := slices.Concat(c.opt.SourcePolicies, more)
	if len(all) == 0 && c.opt.Decide == nil {
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
	return &policy{c, sourcepolicy.NewEngine(all)}, nil
}

// source is what a source becomes, which is left as it is.
func (p *policy) source(ctx context.Context, op *pb.SourceOp, platform *pb.Platform) (_ *pb.SourceOp, changed bool, err error) {
	if p == nil {
		return op, false, nil
	}
	now := op.CloneVT()
	changed, err = p.decide(ctx, now, platform, maxQuestions)
	if err == nil {
		err = p.decideBundle(ctx, now, platform)
	}
	if err != nil || !changed {
		return op, false, err
	}
	return now, true, nil
}

// image is the reference that takes the place of one.
func (p *policy) image(ctx context.Context, ref, scheme string, opt sourceresolver.Opt) (string, error) {
	op, changed, err := p.source(ctx, &pb.SourceOp{Identifier: scheme + "://" + ref}, platformOf(opt))
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
	sources := map[digest.Digest]*pb.Op{} // each is asked for once
	for _, data := range def.Def {
		op, err := graph.ReadOp(data)
		if err != nil {
			return nil, err
		}
		d := digest.FromBytes(data)
		if op.GetSource() != nil {
			sources[d] = op
		}
		r.ops[d] = op
		order = append(order, d)
	}
	changed, err := p.sources(ctx, sources)
	if err != nil {
		return nil, err
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

// maxAsked is how many sources are asked for at the same time.
const maxAsked = 16

// sources puts what sources become in their places. As in BuildKit they are decided at the same time: one may wait for a server.
func (p *policy) sources(ctx context.Context, all map[digest.Digest]*pb.Op) (bool, error) {
	var changed atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAsked)
	for _, op := range all {
		g.Go(func() error {
			now, mutated, err := p.source(ctx, op.GetSource(), op.Platform)
			if err == nil && mutated {
				op.Op = &pb.Op_Source{Source: now}
				changed.Store(true)
			}
			return err
		})
	}
	err := g.Wait()
	return changed.Load(), err
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
