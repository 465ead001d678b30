package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/moby/buildkit/client/buildid"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/registrar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Builds are the builds of a server that clients drive. Each call names one, by the id in its metadata; it may come before the
// build is there, by some seconds.
type Builds struct {
	limits Limits
	known  *registrar.Registrar[string, *Bridge]

	mu  sync.Mutex
	ids map[string]bool
}

// NewBuilds gives builds, of which there are none. Each of them has the limits.
func NewBuilds(limits Limits) *Builds {
	return &Builds{limits: limits, known: registrar.New[string, *Bridge](), ids: map[string]bool{}}
}

// Register has a server serve the builds.
func (b *Builds) Register(s grpc.ServiceRegistrar) { gwpb.RegisterLLBBridgeServer(s, b) }

// Drive lets clients drive a build until end is called, which must be. The function that it returns is given the build's own
// client, once, and gives what a client returns; calls are served also after that, for as long as what was returned is
// delivered.
func (b *Builds) Drive(id string) (drive func(context.Context, gw.Client) (*gw.Result, error), end func(), err error) {
	if id == "" {
		return nil, nil, status.Error(codes.InvalidArgument, "a build that is driven by its client needs an id")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ids[id] {
		return nil, nil, status.Errorf(codes.AlreadyExists, "build %s exists", short(id))
	}
	b.ids[id] = true
	var bridge *Bridge
	drive = func(ctx context.Context, c gw.Client) (*gw.Result, error) {
		if bridge != nil { // another attempt: what clients have of the last one is gone
			return nil, errors.New("a build that is driven by its client cannot begin again")
		}
		bridge = New(context.WithoutCancel(ctx), c, b.limits)
		b.known.Register(id, bridge)
		return bridge.Wait(ctx)
	}
	end = func() {
		if bridge != nil { // else calls that wait for it give the client the time to hear what was wrong
			b.known.Discard(id)
			defer bridge.Close()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.ids, id)
	}
	return drive, end, nil
}

// lookup finds the build that a call is for.
func (b *Builds) lookup(ctx context.Context, method string) (*Bridge, error) {
	id := buildid.FromIncomingContext(ctx)
	if id == "" {
		return nil, fmt.Errorf("forwarding %s: %w", method, errors.New("no buildid found in context"))
	}
	bridge, err := b.known.Get(ctx, id)
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = errdefs.NewUnknownJobError(id)
	}
	if err != nil {
		return nil, fmt.Errorf("forwarding %s: %w", method, err)
	}
	return bridge, nil
}

// forward makes one call of a build.
func forward[Q, A any](ctx context.Context, b *Builds, method string, req Q, call func(*Bridge, context.Context, Q) (A, error)) (A, error) {
	bridge, err := b.lookup(ctx, method)
	if err != nil {
		var none A
		return none, err
	}
	return call(bridge, ctx, req)
}

// ResolveImageConfig implements the service.
func (b *Builds) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	return forward(ctx, b, "ResolveImageConfig", req, (*Bridge).ResolveImageConfig)
}

// ResolveSourceMeta implements the service.
func (b *Builds) ResolveSourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	return forward(ctx, b, "ResolveSourceMeta", req, (*Bridge).ResolveSourceMeta)
}

// Solve implements the service.
func (b *Builds) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	return forward(ctx, b, "Solve", req, (*Bridge).Solve)
}

// ReadFile implements the service.
func (b *Builds) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return forward(ctx, b, "ReadFile", req, (*Bridge).ReadFile)
}

// ReadDir implements the service.
func (b *Builds) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return forward(ctx, b, "ReadDir", req, (*Bridge).ReadDir)
}

// StatFile implements the service.
func (b *Builds) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return forward(ctx, b, "StatFile", req, (*Bridge).StatFile)
}

// Evaluate implements the service.
func (b *Builds) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	return forward(ctx, b, "Evaluate", req, (*Bridge).Evaluate)
}

// Ping implements the service.
func (b *Builds) Ping(ctx context.Context, req *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	return forward(ctx, b, "Ping", req, (*Bridge).Ping)
}

// Return implements the service.
func (b *Builds) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	return forward(ctx, b, "Return", req, (*Bridge).Return)
}

// Inputs implements the service.
func (b *Builds) Inputs(ctx context.Context, req *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	return forward(ctx, b, "Inputs", req, (*Bridge).Inputs)
}

// NewContainer implements the service.
func (b *Builds) NewContainer(ctx context.Context, req *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	return forward(ctx, b, "NewContainer", req, (*Bridge).NewContainer)
}

// ReleaseContainer implements the service.
func (b *Builds) ReleaseContainer(ctx context.Context, req *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	return forward(ctx, b, "ReleaseContainer", req, (*Bridge).ReleaseContainer)
}

// ReadFileContainer implements the service.
func (b *Builds) ReadFileContainer(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	return forward(ctx, b, "ReadFileContainer", req, (*Bridge).ReadFileContainer)
}

// ReadDirContainer implements the service.
func (b *Builds) ReadDirContainer(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	return forward(ctx, b, "ReadDirContainer", req, (*Bridge).ReadDirContainer)
}

// StatFileContainer implements the service.
func (b *Builds) StatFileContainer(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	return forward(ctx, b, "StatFileContainer", req, (*Bridge).StatFileContainer)
}

// Warn implements the service.
func (b *Builds) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	return forward(ctx, b, "Warn", req, (*Bridge).Warn)
}

// ExecProcess implements the service.
func (b *Builds) ExecProcess(srv gwpb.LLBBridge_ExecProcessServer) error {
	bridge, err := b.lookup(srv.Context(), "ExecProcess")
	if err != nil {
		return err
	}
	return bridge.ExecProcess(srv)
}
