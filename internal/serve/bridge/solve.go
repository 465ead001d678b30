package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Solve implements the service.
func (b *Bridge) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	creq, err := solveRequest(req)
	if err != nil {
		return nil, err
	}
	res, err := b.client.Solve(ctx, creq)
	if err != nil {
		var unsupported *errdefs.UnsupportedFrontendCapError
		if errors.As(err, &unsupported) {
			err = grpcerrors.WrapCode(err, codes.Unimplemented)
		}
		return nil, err
	}
	if len(res.Refs) > 0 && !req.AllowResultReturn {
		return nil, errors.New("solve did not return default result") // an old client asks for no map
	}
	out, err := b.present(res, req.AllowResultArrayRef)
	if err != nil {
		return nil, err
	}
	resp := &gwpb.SolveResponse{Result: out}
	if !req.AllowResultReturn {
		resp.Ref = out.GetRefDeprecated() + out.GetRef().GetId()
	}
	if req.Final {
		err = b.setFinal(res, req.ExporterAttr)
	}
	return resp, err
}

// solveRequest checks a request and puts it in Go's words.
func solveRequest(req *gwpb.SolveRequest) (gw.SolveRequest, error) {
	out := gw.SolveRequest{
		Evaluate: req.Evaluate, Definition: req.Definition, Frontend: req.Frontend,
		FrontendOpt: req.FrontendOpt, FrontendInputs: req.FrontendInputs, SourcePolicies: req.SourcePolicies,
	}
	for _, e := range req.CacheImports {
		if e == nil {
			return out, status.Error(codes.InvalidArgument, "invalid nil cache import")
		}
		out.CacheImports = append(out.CacheImports, gw.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	for _, p := range req.SourcePolicies {
		if p == nil {
			return out, status.Error(codes.InvalidArgument, "invalid nil source policy")
		}
		for _, r := range p.Rules {
			if r == nil {
				return out, status.Error(codes.InvalidArgument, "invalid nil rule in policy")
			}
		}
	}
	for name, def := range req.FrontendInputs {
		if def == nil {
			return out, status.Errorf(codes.InvalidArgument, "invalid nil input definition of %s", short(name))
		}
	}
	return out, nil
}

// present gives a client a result: its references get ids.
func (b *Bridge) present(res *gw.Result, arrays bool) (*gwpb.Result, error) {
	out := &gwpb.Result{Metadata: res.Metadata}
	if res.Refs == nil {
		ref, err := b.keep(res.Ref)
		if err != nil {
			return nil, err
		}
		if arrays {
			out.Result = &gwpb.Result_Ref{Ref: ref}
		} else {
			out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: ref.Id}
		}
	} else {
		refs, ids := map[string]*gwpb.Ref{}, map[string]string{}
		for key, r := range res.Refs {
			ref, err := b.keep(r)
			if err != nil {
				return nil, err
			}
			refs[key], ids[key] = ref, ref.Id
		}
		if arrays {
			out.Result = &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: refs}}
		} else {
			out.Result = &gwpb.Result_RefsDeprecated{RefsDeprecated: &gwpb.RefMapDeprecated{Refs: ids}}
		}
	}
	for key, all := range res.Attestations {
		for _, a := range all {
			att, err := gw.AttestationToPB(&a)
			if err == nil {
				att.Ref, err = b.keep(a.Ref) // clients look into it, whatever it is
			}
			if err != nil {
				return nil, err
			}
			if out.Attestations == nil {
				out.Attestations = map[string]*gwpb.Attestations{}
			}
			if out.Attestations[key] == nil {
				out.Attestations[key] = &gwpb.Attestations{}
			}
			out.Attestations[key].Attestation = append(out.Attestations[key].Attestation, att)
		}
	}
	return out, nil
}

// keep gives a client a reference. The empty filesystem has no id.
func (b *Bridge) keep(ref gw.Reference) (*gwpb.Ref, error) {
	if ref == nil {
		return &gwpb.Ref{}, nil
	}
	def, err := definition(ref)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if len(b.refs) >= b.limits.Refs {
		return nil, status.Errorf(codes.ResourceExhausted, "the build has %d results already, which is as many as one may have", len(b.refs))
	}
	size := def.SizeVT()
	if size > b.limits.Graphs-b.graphs {
		return nil, status.Errorf(codes.ResourceExhausted, "the graphs of the build's results have %d bytes already, which is as much as they may have: build less at once", b.graphs)
	}
	b.graphs += size
	id := identity.NewID()
	b.refs[id] = ref
	return &gwpb.Ref{Id: id, Def: def}, nil
}

// definition is the graph of a reference.
func definition(ref gw.Reference) (*pb.Definition, error) {
	if d, ok := ref.(interface{ Definition() *pb.Definition }); ok {
		return d.Definition(), nil
	}
	state, err := ref.ToState()
	if err != nil {
		return nil, fmt.Errorf("reading a result's definition: %w", err)
	}
	def, err := state.Marshal(context.Background())
	if err != nil {
		return nil, fmt.Errorf("reading a result's definition: %w", err)
	}
	return def.ToPB(), nil
}

// setFinal is how clients return a result that know no other way.
func (b *Bridge) setFinal(res *gw.Result, attrs []byte) error {
	final := &gw.Result{Ref: res.Ref, Metadata: map[string][]byte{}}
	if err := json.Unmarshal(attrs, &final.Metadata); err != nil {
		return status.Errorf(codes.InvalidArgument, "reading the attributes of the result: %v", err)
	}
	if final.Metadata == nil { // "null"
		final.Metadata = map[string][]byte{}
	}
	maps.Copy(final.Metadata, res.Metadata)
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.returned: // what is being delivered stays what it is
		return status.Error(codes.FailedPrecondition, "gateway result is already set")
	default:
	}
	b.result = final
	return nil
}

// Evaluate implements the service.
func (b *Bridge) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	return about(ctx, b, b.ref, req.Ref, func(ctx context.Context, ref gw.Reference) (*gwpb.EvaluateResponse, error) {
		if err := ref.Evaluate(ctx); err != nil {
			return nil, err
		}
		return &gwpb.EvaluateResponse{}, nil
	})
}
