package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalError is the cause of a context that a signal ended. It is a context.Canceled, so that
// displays show what was going on as cancelled and not as failed.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string        { return "interrupted by " + unix.SignalName(e.sig) }
func (e *signalError) Is(target error) bool { return target == context.Canceled }

// forwarder is where signals go instead of ending the context, while a container runs in the
// foreground.
type forwarder struct {
	mu   sync.Mutex
	to   chan<- int
	last syscall.Signal // the one handed on last
}

type signalKey struct{}

type signalState struct {
	forwarder
	cancel context.CancelCauseFunc
}

// withSignals gives a context that SIGINT, SIGTERM and SIGHUP end. The second of them ends the
// process at once. SIGPIPE is turned into the EPIPE of a write; it is caught and not ignored, as
// processes would inherit that.
func withSignals(parent context.Context) (context.Context, context.CancelFunc) {
	state := &signalState{}
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, signalKey{}, state))
	state.cancel = cancel
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		for s := range caught {
			sig := s.(syscall.Signal)
			if state.forward(sig) {
				continue
			}
			if interruptedBy(ctx) != 0 {
				fmt.Fprintln(os.Stderr, "ERROR: interrupted again: exiting at once")
				os.Exit(128 + int(sig))
			}
			cancel(&signalError{sig})
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		cancel(nil)
	}
}

// forward hands a signal to the process in the foreground. SIGHUP is not handed on: without a
// daemon a container ends with its terminal. Neither is SIGINT or SIGTERM the second time in a
// row: a first process that has no handler never sees the first.
func (f *forwarder) forward(sig syscall.Signal) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	again := f.last == sig && (sig == unix.SIGINT || sig == unix.SIGTERM)
	if f.to == nil || sig == unix.SIGHUP || again {
		return false
	}
	f.last = sig
	select {
	case f.to <- int(sig):
		return true
	default:
		return false
	}
}

// forwardSignals makes the signals of a context from withSignals go to the returned channel
// until stop is called.
func forwardSignals(ctx context.Context) (signals <-chan int, stop func()) {
	state, ok := ctx.Value(signalKey{}).(*signalState)
	if !ok {
		return nil, func() {}
	}
	ch := make(chan int, 16)
	set := func(to chan<- int) {
		state.mu.Lock()
		defer state.mu.Unlock()
		state.to, state.last = to, 0
	}
	set(ch)
	return ch, func() { set(nil) }
}

// interrupt ends a context from withSignals as if the signal had come.
func interrupt(ctx context.Context, sig syscall.Signal) {
	if state, ok := ctx.Value(signalKey{}).(*signalState); ok {
		state.cancel(&signalError{sig})
	}
}

// interruptedBy returns the signal that ended ctx, or 0.
func interruptedBy(ctx context.Context) syscall.Signal {
	if e, ok := context.Cause(ctx).(*signalError); ok {
		return e.sig
	}
	return 0
}
