package serve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/serve/control"
	"github.com/slipway-build/slipway/internal/store"
)

// A server that is told to end takes no more builds, and lets those that run end.
func TestDrain(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) {
		close(begun)
		<-end
		return &control.Result{Response: map[string]string{"a": "b"}}, nil
	})
	type got struct {
		res *controlapi.SolveResponse
		err error
	}
	solved := make(chan got, 1)
	go func() {
		res, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
		solved <- got{res, err}
	}()
	<-begun
	s.drain()
	for {
		_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r2", Frontend: "shell"})
		if grpcerrors.Code(err) == codes.Unavailable {
			break
		}
		wantErr(t, err, "invalid frontend") // not told yet
	}
	close(end)
	if g := <-solved; g.err != nil || g.res.ExporterResponse["a"] != "b" {
		t.Errorf("the build that ran is %v, %v", g.res, g.err)
	}
	must(t, <-s.ended)
}

// One whose context ends ends builds, and tells why.
func TestEnd(t *testing.T) {
	begun := make(chan struct{})
	s := start(t, func(ctx context.Context, _ control.Solve, _ progress.Sink) (*control.Result, error) {
		close(begun)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	solved := make(chan error, 1)
	go func() {
		_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
		solved <- err
	}()
	<-begun
	s.cancel(errors.New("the machine ends"))
	wantErr(t, <-solved, "the machine ends")
	must(t, <-s.ended)
	st, err := store.Open(s.root) // the record is there
	must(t, err)
	defer st.Close()
	if all, err := st.Builds(); err != nil || len(all) != 1 || all[0].Running {
		t.Errorf("records are %v, %v", all, err)
	}
}

// A server without anything to do ends, but not while a build runs.
func TestIdle(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	var ended chan error
	s := start(t, func(context.Context, control.Solve, progress.Sink) (*control.Result, error) {
		close(begun)
		<-end
		return nil, nil
	}, func(_ *control.Options, o *Options, s *server) { o.Idle, ended = 500*time.Millisecond, s.ended })
	solved := make(chan error, 1)
	go func() {
		_, err := s.api.Solve(context.Background(), &controlapi.SolveRequest{Ref: "r", Frontend: "dockerfile.v0"})
		solved <- err
	}()
	<-begun
	close(end)
	must(t, <-solved)
	must(t, <-ended)

	// What is counted: calls, but not those of probes.
	a := newActivity(time.Nanosecond, nil, func(string) {})
	<-a.idle
	a = newActivity(time.Hour, nil, func(string) {})
	a.begin()
	a.fire()
	select {
	case <-a.idle:
		t.Error("it is idle while there is a call")
	default:
	}
	a.end()
	runs := true
	a.busy = func() bool { return runs }
	a.fire()
	select {
	case <-a.idle:
		t.Error("it is idle while something runs")
	default:
	}
	runs = false
	a.fire()
	<-a.idle
	if counts("/grpc.health.v1.Health/Check") || !counts("/moby.buildkit.v1.Control/Solve") {
		t.Error("probes count, or builds do not")
	}
}

// Probes are answered, and services can be asked for.
func TestHealthAndReflection(t *testing.T) {
	s := start(t, nil)
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer cc.Close()
	h, err := healthv1.NewHealthClient(cc).Check(context.Background(), &healthv1.HealthCheckRequest{})
	must(t, err)
	if h.Status != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("the server is %v", h)
	}
	stream, err := reflectionv1.NewServerReflectionClient(cc).ServerReflectionInfo(context.Background())
	must(t, err)
	must(t, stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	r, err := stream.Recv()
	must(t, err)
	names := fmt.Sprint(r.GetListServicesResponse().GetService())
	for _, want := range []string{"moby.buildkit.v1.Control", "containerd.services.content.v1.Content", "opentelemetry.proto.collector.trace.v1.TraceService", "grpc.health.v1.Health"} {
		if !strings.Contains(names, want) {
			t.Errorf("services are %s, want %s too", names, want)
		}
	}
}

// The store is open while there are requests, and some time after; what is old gets no new ones.
func TestKeeper(t *testing.T) {
	opened, closed := make(chan int, 10), make(chan int, 10)
	n := 0
	k := &Keeper{Linger: time.Hour, MaxAge: time.Hour, Warn: func(text string) { t.Error(text) }, Open: func() (*control.Backend, func() error, error) {
		n++
		me := n
		opened <- me
		return &control.Backend{}, func() error { closed <- me; return nil }, nil
	}}
	a, releaseA, err := k.Acquire()
	must(t, err)
	b, releaseB, err := k.Acquire()
	must(t, err)
	if a != b || <-opened != 1 || len(opened) != 0 {
		t.Error("two requests opened two")
	}
	releaseA()
	releaseA() // once is enough
	first := k.held
	k.leave(first)
	if len(closed) != 0 || k.held != first {
		t.Error("it was closed while somebody used it")
	}
	k.MaxAge = 0
	c, releaseC, err := k.Acquire()
	must(t, err)
	if c == b || <-opened != 2 {
		t.Error("what is old was given to a new request")
	}
	releaseB()
	if <-closed != 1 {
		t.Error("another one was closed")
	}
	renewed := k.Renew()
	k.MaxAge = time.Hour
	d, releaseD, err := k.Acquire()
	must(t, err)
	if d == c || <-opened != 3 {
		t.Error("what was to be closed was given to a new request")
	}
	select {
	case <-renewed:
		t.Error("it is closed while somebody uses it")
	default:
	}
	releaseC()
	if <-renewed; <-closed != 2 {
		t.Error("another one was closed")
	}
	releaseD()
	k.leave(k.held)
	if <-closed != 3 || k.held != nil {
		t.Error("another one was closed")
	}
	<-k.Renew() // there is nothing
	warned := ""
	k.Warn = func(text string) { warned = text }
	_, releaseE, err := k.Acquire()
	must(t, err)
	k.Close(0) // somebody uses it, and does not stop to
	if warned == "" || len(closed) != 0 {
		t.Error("it waited for somebody who uses it, or took it from him")
	}
	releaseE()
	if <-closed != 4 {
		t.Error("another one was closed")
	}
	fails := &Keeper{Open: func() (*control.Backend, func() error, error) { return nil, nil, errors.New("no") }}
	if _, _, err := fails.Acquire(); err == nil {
		t.Error("what cannot be opened was")
	}
	fails.Close(time.Minute)
}
