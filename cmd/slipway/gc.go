package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A small build lives for some milliseconds and would collect garbage a dozen times at Go's own
// pace. A large one, however much it handles, needs little at any time: its heap may be as large as a small one's,
// or a part larger than what is in use.
const (
	gcPercent  = 400 // at most
	gcLeast    = 60
	heapTarget = 32 << 20
)

// tuneCollector sets the pace of the garbage collector, unless the user has.
func tuneCollector() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(gcPercent)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var pace func(*[16]byte)
	pace = func(*[16]byte) {
		metrics.Read(live)
		debug.SetGCPercent(percentFor(live[0].Value.Uint64()))
		runtime.SetFinalizer(new([16]byte), pace) // for the next collection
	}
	runtime.SetFinalizer(new([16]byte), pace)
}

// percentFor is how much the heap may grow when so much of it is in use.
func percentFor(live uint64) int {
	if live == 0 {
		return gcPercent
	}
	return int(min(max((heapTarget*100)/live, 100+gcLeast)-100, gcPercent))
}
