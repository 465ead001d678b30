package serve

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// activity counts the calls that are being served, to find when there was none for some time.
type activity struct {
	after time.Duration // 0 is never
	busy  func() bool   // asked before it ends; may be nil
	warn  func(string)
	idle  chan struct{} // closed then

	mu    sync.Mutex
	calls int
	timer *time.Timer
}

func newActivity(after time.Duration, busy func() bool, warn func(string)) *activity {
	a := &activity{after: after, busy: busy, warn: warn, idle: make(chan struct{})}
	if after > 0 {
		a.timer = time.AfterFunc(after, a.fire)
	}
	return a
}

// fire ends the wait, unless a call came just before.
func (a *activity) fire() {
	busy := a.busy != nil && a.busy()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls > 0 {
		return
	}
	if busy {
		a.timer.Reset(a.after)
		return
	}
	select {
	case <-a.idle:
	default:
		close(a.idle)
	}
}

func (a *activity) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls++; a.timer != nil {
		a.timer.Stop()
	}
}

func (a *activity) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls--; a.calls == 0 && a.timer != nil {
		a.timer.Reset(a.after)
	}
}

// counts reports whether a call is work: not those of probes, which come for ever.
func counts(method string) bool {
	return !strings.HasPrefix(method, "/grpc.health.") && !strings.HasPrefix(method, "/grpc.reflection.")
}

// unary counts a call. One that panics, whatever its client sent, is an error to that client alone.
func (a *activity) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	if counts(info.FullMethod) {
		a.begin()
		defer a.end()
	}
	defer a.survive(info.FullMethod, &err)
	return handler(ctx, req)
}

// stream is unary for calls with streams.
func (a *activity) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	if counts(info.FullMethod) {
		a.begin()
		defer a.end()
	}
	defer a.survive(info.FullMethod, &err)
	return handler(srv, s)
}

func (a *activity) survive(method string, err *error) {
	if r := recover(); r != nil {
		a.warn(fmt.Sprintf("%s: panic: %v", method, r))
		*err = status.Errorf(codes.Internal, "%s: internal error", method)
	}
}
