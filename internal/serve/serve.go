// Package serve lets clients of BuildKit drive slipway: it listens, and ends when it shall.
//
// # Structure
//
// [Listen] opens addresses. [Serve] answers calls that come there, by internal/serve/control and what else is registered, until it is told to
// end or nobody wants anything for some time. A [Keeper] holds the store while there are calls.
package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/slipway-build/slipway/internal/serve/bridge"
	"github.com/slipway-build/slipway/internal/serve/control"
)

// Options say how to serve.
type Options struct {
	Control *control.Server
	// Register adds further services; it may be nil.
	Register func(grpc.ServiceRegistrar)
	// Idle is how long there may be no call before the server ends; 0 is for ever.
	Idle time.Duration
	// Busy reports whether something runs that no call is about, so that the server stays; it may be nil.
	Busy func() bool
	// Warn is told what no client is.
	Warn func(text string)
	// Ready is called when the server answers; it may be nil.
	Ready func()
	// HTTP answers requests that come at HTTPListeners, which are closed; beside it BuildKit's API is served there. It may be nil.
	HTTP http.Handler
	// HTTPEnds is called when HTTP is to answer to its end what it would answer for ever; it may be nil.
	HTTPEnds      func()
	HTTPListeners []net.Listener
	// Connections are those on which BuildKit's API is to be served as if they had come at a listener; it may be nil.
	Connections *Connections
}

const (
	// maxHeaders bounds what comes with a call, maxCalls the calls of a connection at the same time.
	maxHeaders = 1 << 20
	maxCalls   = 5000
	// Peers that are gone are noticed: a network may lose them without a word.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second
	// lastCalls is how long calls may go on when the server ends and no build runs any more, cancelled how long builds that
	// are to end may.
	lastCalls = 3 * time.Second
	cancelled = 10 * time.Second
)

// Serve serves on the listeners, which it closes. It ends when drain is closed and the builds that run have ended, when nobody
// wants anything for some time, when a listener fails, and when ctx ends, which ends builds as well.
func Serve(ctx context.Context, drain <-chan struct{}, listeners []net.Listener, opt Options) error {
	act := newActivity(opt.Idle, opt.Busy, opt.Warn)
	srv := grpc.NewServer(append(bridge.WireOptions(),
		grpc.ChainUnaryInterceptor(grpcerrors.UnaryServerInterceptor, act.unary),
		grpc.ChainStreamInterceptor(grpcerrors.StreamServerInterceptor, act.stream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
	)...)
	healthy := health.NewServer()
	healthv1.RegisterHealthServer(srv, healthy)
	opt.Control.Register(srv)
	if opt.Register != nil {
		opt.Register(srv)
	}
	reflection.Register(srv)

	if opt.Connections != nil {
		listeners = append(listeners, opt.Connections)
	}
	web := newWeb(srv, act, opt)
	failed := make(chan error, len(listeners)+len(opt.HTTPListeners))
	for _, l := range listeners {
		go func() { failed <- srv.Serve(l) }()
	}
	for _, l := range opt.HTTPListeners {
		go func() { failed <- web.Serve(l) }()
	}
	if opt.Ready != nil {
		opt.Ready()
	}
	var err error
	select {
	case err = <-failed:
	case <-drain:
	case <-act.idle:
	case <-ctx.Done():
	}
	healthy.Shutdown()
	opt.Control.Drain()
	if opt.Control.Wait(ctx) != nil {
		opt.Control.Cancel(context.Cause(ctx))
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelled)
		defer cancel()
		err = errors.Join(err, opt.Control.Wait(late))
	}
	opt.Control.Close()
	err = errors.Join(err, web.stop(ctx))
	stop(srv)
	return err
}

// stop lets the calls that are under way come to their ends, for some time: a session may stay open as long as its client lives.
func stop(srv *grpc.Server) {
	late := time.AfterFunc(lastCalls, srv.Stop)
	defer late.Stop()
	srv.GracefulStop()
}
