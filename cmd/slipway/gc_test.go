package main

import (
	"runtime/debug"
	"testing"
)

func TestTuneCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(77))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(77 << 30))
	t.Setenv("GOGC", "77")
	t.Setenv("GOMEMLIMIT", "77GiB")
	tuneCollector()
	if p, l := debug.SetGCPercent(77), debug.SetMemoryLimit(-1); p != 77 || l != 77<<30 {
		t.Errorf("what the user set became %d, %d", p, l)
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	tuneCollector()
	if p, l := debug.SetGCPercent(77), debug.SetMemoryLimit(-1); p != gcPercent || l != memoryLimit {
		t.Errorf("the pace is %d, %d", p, l)
	}
}
