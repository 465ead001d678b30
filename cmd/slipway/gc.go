package main

import (
	"os"
	"runtime/debug"
)

// A small build lives for some milliseconds and would collect garbage a dozen times at Go's own
// pace; a large one stays at this many bytes as long as what it needs fits.
const (
	gcPercent   = 400
	memoryLimit = 192 << 20
)

// tuneCollector sets the pace of the garbage collector, unless the user has.
func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
