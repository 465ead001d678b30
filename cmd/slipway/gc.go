package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// slack is how many bytes are allocated between two collections of garbage, at least. Go starts
// with 4 MiB, so that a small build, which lives for some milliseconds, would collect a dozen
// times. A heap that is larger than slack grows by its own size, as usual.
const slack = 24 << 20

// tuneCollector sets the pace of the garbage collector now and after each collection, unless the
// user has set it.
func tuneCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(pace(4 << 20)) // Go's own minimum
	watch()
}

// watch sets the pace again when the next collection has found its object to be garbage.
func watch() {
	// Not of a tiny size: several of these share one place and die together.
	runtime.SetFinalizer(&[64]byte{}, func(*[64]byte) {
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		if sample[0].Value.Kind() == metrics.KindUint64 {
			debug.SetGCPercent(pace(sample[0].Value.Uint64()))
		}
		watch()
	})
}

// pace is the percentage of live bytes that may be allocated before the next collection.
func pace(live uint64) int {
	return int(max(100, slack*100/max(live, 4<<20)))
}
