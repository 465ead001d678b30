package network

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A panic of the TCP/IP stack, which parses what processes and their peers send, is the end of the one network that it
// is in, and of its step: not of this process, in which other builds are. Every goroutine that the stack's code runs in
// ends with contain: those that are made here, those of the stack's timers (clock), and those in which TCP handles
// segments, which by hack/patches tell the clock. What the stack had locked stays so: nothing of it is waited for any
// more, and what hangs in it stays in memory until this process ends.

// contain is to be deferred. It has a panic break the network instead of ending this process.
func (o *outlet) contain() {
	if v := recover(); v != nil {
		o.Panicked(v)
	}
}

// Panicked breaks the network, as its stack panicked with v. It is called while that is handled, in the same goroutine.
func (o *outlet) Panicked(v any) {
	err := fmt.Errorf("passing on packets of a network namespace: its TCP/IP stack has failed: %v%s "+
		"(this is a defect: please report it; --network=host does without the stack)", v, origin())
	o.breakOnce.Do(func() {
		o.broke = err
		close(o.broken)
		if o.failed != nil {
			o.failed(err)
		}
	})
}

// origin is where a panic that is being handled comes from.
func origin() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for panicking := false; ; {
		f, more := frames.Next()
		if panicking && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf(", in %s, line %d", f.Function, f.Line)
		}
		panicking = panicking || f.Function == "runtime.gopanic"
		if !more {
			return ""
		}
	}
}

// clock is the time of a stack, whose timers run in goroutines of their own.
type clock struct {
	tcpip.Clock
	*outlet // whose Panicked the stack calls
}

// AfterFunc implements [tcpip.Clock].
func (c clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		defer c.contain()
		f()
	})
}

// abandon ends what does not need the stack, which is broken: connections to the outside break off.
func (o *outlet) abandon() {
	o.cancel()
	o.stopReading()
	o.pairs.stop()
}
