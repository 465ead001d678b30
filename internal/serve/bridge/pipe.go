package bridge

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	gw "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/slipway-build/slipway/internal/frontend"
)

// maxCalls is how many calls a frontend may have under way at the same time. More wait.
const maxCalls = 100

// ServerOptions are those of every server that BuildKit's clients talk to: errors with their types, messages of bounded size, and
// a call that panics is an error of that call.
func ServerOptions() []grpc.ServerOption {
	return append(WireOptions(),
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
			defer survive(info.FullMethod, &err)
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor, func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer survive(info.FullMethod, &err)
			return handler(srv, s)
		}),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
}

// survive makes a panic an error.
func survive(method string, err *error) {
	if r := recover(); r != nil {
		*err = status.Error(codes.Internal, fmt.Sprintf("%s: a bug of slipway: %v\n%s", method, r, debug.Stack()))
	}
}

// Serve has somebody drive a build through a connection, such as the standard streams of a process, until that is at its end or
// Close is called.
func Serve(ctx context.Context, c gw.Client, conn io.ReadWriteCloser) frontend.Driver {
	b := New(ctx, c, Limits{})
	server := grpc.NewServer(append(ServerOptions(), grpc.MaxConcurrentStreams(maxCalls))...)
	gwpb.RegisterLLBBridgeServer(server, b)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	l := &listener{conn: make(chan net.Conn, 1), over: make(chan struct{})}
	l.conn <- &pipe{conn, l}
	b.stop = server.Stop
	go func() {
		defer close(b.over)
		_ = server.Serve(l) // its end is that of the connection
	}()
	return b
}

// listener has one connection, and is at its end when that is.
type listener struct {
	conn chan net.Conn
	over chan struct{}
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.over) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

// pipe is a connection of two streams.
type pipe struct {
	io.ReadWriteCloser
	l *listener
}

func (p *pipe) Close() error {
	_ = p.l.Close()
	return p.ReadWriteCloser.Close()
}

func (*pipe) LocalAddr() net.Addr              { return address{} }
func (*pipe) RemoteAddr() net.Addr             { return address{} }
func (*pipe) SetDeadline(time.Time) error      { return nil }
func (*pipe) SetReadDeadline(time.Time) error  { return nil }
func (*pipe) SetWriteDeadline(time.Time) error { return nil }

type address struct{}

func (address) Network() string { return "pipe" }
func (address) String() string  { return "localhost" }
