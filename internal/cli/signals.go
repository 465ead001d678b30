package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
	inTime atomic.Bool
	once   sync.Once
}

// lastMoment is how long after a signal a command of [endInTime] may still tidy up.
const lastMoment = 900 * time.Millisecond

// endInTime makes a signal that ends ctx end the process within a second, whatever that is doing: some
// of it cannot be told to stop, and its output may be something that nobody reads. What is half-done
// is left for the next process then, as after SIGKILL.
func endInTime(ctx context.Context) {
	if state, ok := ctx.Value(signalKey{}).(*signalState); ok {
		state.inTime.Store(true)
	}
}

// exit ends the process with a last word, if somebody reads it.
func exit(sig syscall.Signal, word string) {
	said := make(chan struct{})
	go func() {
		fmt.Fprintln(os.Stderr, word)
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(50 * time.Millisecond):
	}
	os.Exit(128 + int(sig))
}

// withSignals gives a context that signals end, from [catchSignals] on.
func withSignals(parent context.Context) (context.Context, context.CancelFunc) {
	state := &signalState{}
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, signalKey{}, state))
	state.cancel = cancel
	return ctx, func() { cancel(nil) }
}

// catchSignals makes SIGINT, SIGTERM and SIGHUP end a context from withSignals. The second of them ends the
// process at once. SIGPIPE is turned into the EPIPE of a write; it is caught and not ignored, as
// processes would inherit that.
//
// Go's runtime passes each signal that is to be caught, or no longer, to a thread and back, which takes longer
// than what `slipway version` has to do: it is not done for what only prints what the program knows, and not
// taken back before the process ends.
func catchSignals(ctx context.Context) {
	if state, ok := ctx.Value(signalKey{}).(*signalState); ok {
		state.once.Do(func() { state.catch(ctx) })
	}
}

func (state *signalState) catch(ctx context.Context) {
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, unix.SIGPIPE)
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	context.AfterFunc(ctx, func() {
		if sig := interruptedBy(ctx); sig != 0 {
			time.AfterFunc(lastMoment, func() {
				switch {
				case !state.inTime.Load():
				case sig == unix.SIGPIPE:
					os.Exit(128 + int(sig))
				default:
					exit(sig, "ERROR: interrupted: "+unix.SignalName(sig))
				}
			})
		}
	})
	go func() {
		for s := range caught {
			sig := s.(syscall.Signal)
			if state.forward(sig) {
				continue
			}
			switch {
			case interruptedBy(ctx) != 0:
				exit(sig, "ERROR: interrupted again: exiting at once")
			case ctx.Err() != nil: // the command has come to its end
				os.Exit(128 + int(sig))
			}
			state.cancel(&signalError{sig})
		}
	}()
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
