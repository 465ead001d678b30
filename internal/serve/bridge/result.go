package bridge

import (
	"context"
	"fmt"
	"slices"

	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client/llb"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-build/slipway/internal/graph"
)

// Return implements the service: the first call ends the client's part of the build.
func (b *Bridge) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	_, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if e := req.Error; e != nil {
		if e.Code == int32(codes.OK) { // which would be neither a result nor an error, and the build would wait for one
			return nil, status.Error(codes.InvalidArgument, "an error has a code")
		}
		err := grpcerrors.FromGRPC(status.ErrorProto(&spb.Status{Code: e.Code, Message: e.Message, Details: e.Details}))
		if !printable(err) {
			err = grpcerrors.FromGRPC(status.ErrorProto(&spb.Status{Code: e.Code, Message: e.Message}))
		}
		return &gwpb.ReturnResponse{}, b.setResult(nil, err)
	}
	if req.Result == nil {
		return nil, status.Error(codes.InvalidArgument, "result is required")
	}
	res, err := b.taken(req.Result)
	if err != nil {
		return nil, err
	}
	return &gwpb.ReturnResponse{}, b.setResult(res, nil)
}

// printable reports whether the places of an error are such: BuildKit's function that prints them relies on it.
func printable(err error) bool {
	for _, s := range errdefs.Sources(err) {
		if slices.ContainsFunc(s.Ranges, func(r *pb.Range) bool { return r == nil || r.Start == nil || r.End == nil }) {
			return false
		}
	}
	return true
}

func (b *Bridge) setResult(res *gw.Result, err error) error {
	if (res == nil) == (err == nil) { // an error with the code of success is none
		return status.Error(codes.InvalidArgument, "gateway return must be either result or err")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.returned:
		return status.Error(codes.FailedPrecondition, "gateway result is already set")
	default:
	}
	b.result, b.err = res, err
	close(b.returned)
	return nil
}

// taken is a result that a client names, with the references that it was given.
func (b *Bridge) taken(in *gwpb.Result) (*gw.Result, error) {
	out := &gw.Result{Metadata: in.Metadata}
	switch r := in.Result.(type) {
	case *gwpb.Result_RefDeprecated:
		ref, err := b.returnedRef(r.RefDeprecated)
		if err != nil {
			return nil, err
		}
		out.Ref = ref
	case *gwpb.Result_RefsDeprecated:
		out.Refs = map[string]gw.Reference{}
		for key, id := range r.RefsDeprecated.GetRefs() {
			ref, err := b.returnedRef(id)
			if err != nil {
				return nil, err
			}
			out.Refs[key] = ref
		}
	case *gwpb.Result_Ref:
		ref, err := b.returnedRef(r.Ref.GetId())
		if err != nil {
			return nil, err
		}
		out.Ref = ref
	case *gwpb.Result_Refs:
		out.Refs = map[string]gw.Reference{}
		for key, ref := range r.Refs.GetRefs() {
			ref, err := b.returnedRef(ref.GetId())
			if err != nil {
				return nil, err
			}
			out.Refs[key] = ref
		}
	}
	for key, all := range in.Attestations {
		for _, a := range all.GetAttestation() {
			att, err := gw.AttestationFromPB[gw.Reference](a)
			if err != nil {
				return nil, status.Error(codes.InvalidArgument, err.Error())
			}
			if att.Ref, err = b.returnedRef(a.Ref.GetId()); err != nil {
				return nil, err
			}
			out.AddAttestation(key, *att)
		}
	}
	return out, nil
}

// returnedRef finds a reference; without an id it is the empty filesystem.
func (b *Bridge) returnedRef(id string) (gw.Reference, error) {
	if id == "" {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ref, ok := b.refs[id]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "return reference %s not found", short(id))
	}
	return ref, nil
}

// Inputs implements the service.
func (b *Bridge) Inputs(ctx context.Context, _ *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	states, err := b.client.Inputs(ctx)
	if err != nil {
		return nil, err
	}
	out := &gwpb.InputsResponse{Definitions: map[string]*pb.Definition{}}
	for name, state := range states {
		if out.Definitions[name], err = marshal(ctx, state); err != nil {
			return nil, fmt.Errorf("reading input %s: %w", name, err)
		}
	}
	return out, nil
}

func marshal(ctx context.Context, state llb.State) (*pb.Definition, error) {
	def, err := state.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	return def.ToPB(), nil
}

// Ping implements the service: it tells what the build's client can do, and nothing that it cannot.
func (b *Bridge) Ping(ctx context.Context, _ *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	_, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	opts := b.client.BuildOpts()
	out := &gwpb.PongResponse{FrontendAPICaps: had(gwpb.Caps.All(), opts.Caps), LLBCaps: had(pb.Caps.All(), opts.LLBCaps)}
	for _, w := range opts.Workers {
		out.Workers = append(out.Workers, &apitypes.WorkerRecord{ID: w.ID, Labels: w.Labels, Platforms: pb.PlatformsFromSpec(w.Platforms)})
	}
	return out, nil
}

// had are those of all capabilities that are in a set.
func had(all []*apicaps.PBCap, set apicaps.CapSet) (out []*apicaps.PBCap) {
	for _, c := range all {
		if set.Contains(apicaps.CapID(c.ID)) {
			out = append(out, c)
		}
	}
	return out
}

// Warn implements the service.
func (b *Bridge) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, r := range req.Ranges {
		if r == nil {
			return nil, status.Error(codes.InvalidArgument, "invalid source range")
		}
	}
	err = b.client.Warn(ctx, digest.Digest(req.Digest), string(req.Short), gw.WarnOpts{
		Level: int(req.Level), SourceInfo: req.Info, Range: graph.Ranges(req.Ranges), Detail: req.Detail, URL: req.Url,
	})
	if err != nil {
		return nil, err
	}
	return &gwpb.WarnResponse{}, nil
}
